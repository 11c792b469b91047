"""The pages for people with a browser, below ``/ui/``."""

from gateway.web.pages import pages

__all__ = ["pages"]
