"""Measures the gateway against the programs a user would run instead; see ``bench/run --help``."""
