"""Makes ``twistd gateway`` known; imports nothing of the gateway, so that listing plugins is cheap."""

from twisted.application.service import ServiceMaker

gateway = ServiceMaker(
    "gateway",
    "gateway.tap",
    "the door between the users of virtual machines and the hypervisors",
    "gateway",
)
