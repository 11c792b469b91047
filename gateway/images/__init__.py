"""The image relay: every dialect of oVirt's image proxies on one data port."""

from gateway.images.access import Access
from gateway.images.cors import Cors
from gateway.images.service import ImageService, Targets

__all__ = ["Access", "Cors", "ImageService", "Targets"]
