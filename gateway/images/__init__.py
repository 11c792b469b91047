"""The image relay: every dialect of oVirt's image proxies on one data port."""

from gateway.images.access import Access
from gateway.images.cors import Cors
from gateway.images.nbd_pool import NbdPool
from gateway.images.service import ImageService
from gateway.images.targets import Targets

__all__ = ["Access", "Cors", "ImageService", "NbdPool", "Targets"]
