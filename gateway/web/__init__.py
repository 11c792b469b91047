"""The pages for people with a browser, below ``/ui/``."""

from gateway.web.pages import admin_pages, pages

__all__ = ["admin_pages", "pages"]
