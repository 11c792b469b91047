"""The image relay: every dialect of oVirt's image proxies on one data port."""

from gateway.images.compose import Images

__all__ = ["Images"]
