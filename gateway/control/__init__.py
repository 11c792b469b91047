"""The control listener: where the engine and the operator give orders over HTTP."""

from gateway.control.pages import refuse_pages
from gateway.control.resources import Orders, control_tree

__all__ = ["Orders", "control_tree", "refuse_pages"]
