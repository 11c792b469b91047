"""What is aimed at, in one place: by case, the peers with floor and goal.

Against a peer they are ratios, above 1 where the gateway is better; against ``gateway`` they are
limits. Cases that are not here are measured for their own sake.
"""

from __future__ import annotations

from collections.abc import Mapping

from bench.cases import GATEWAY, Target

_TLS = (
    Target("imageio", 1.5, 1.8),
    Target("nginx", 1.0, 1.3),
    Target("haproxy", 1.1, 1.4),
    Target("squid", 1.5, 2.0),
)
_UNIX = (Target("imageio", 1.5, 2.0), Target("nginx", 1.0, 1.3), Target("haproxy", 1.1, 1.4))
_STORE = (Target("imageio", 1.3, 2.0),)
#: At most 1.2 times as long, at best no longer.
_ECHO = (Target("websockify", 0.83, 1.0),)
_TUNNEL = (Target("squid", 1.0, 2.5),)
#: At most twice as long, at best 1.2 times.
_TUNNEL_ECHO = (Target("squid", 0.5, 0.83),)
#: Twice as many calls, and with all that the endpoint does as many.
_CALLS = (Target("libvirt-python", 2.0, 3.0),)
_AMP_CALLS = (Target("libvirt-python", 1.0, 1.5), Target("amp-libvirt-python", 1.0, 2.0))
#: What a stock client has of it, beside going there directly.
_THROUGH, _UPLOAD = (Target("direct", 0.6, 1.0),), (Target("direct", 0.8, 1.0),)
#: MiB by which memory may grow.
_GROWTH = (Target(GATEWAY, 16.0, 4.0),)

TARGETS: Mapping[str, tuple[Target, ...]] = {
    "images/tls-get": _TLS,
    "images/tls-put": _TLS,
    "images/unix-get": _UNIX,
    "images/unix-put": _UNIX,
    "store/get": _STORE,
    "store/put": _STORE,
    "memory/get": _GROWTH,
    "memory/put": _GROWTH,
    "connections/new": (Target("imageio", 1.3, 2.0),),
    "consoles/down": (Target("websockify", 1.0, 1.3),),
    "consoles/up-1k": (Target("websockify", 2.0, 3.0),),
    "consoles/up-16k": (Target("websockify", 1.3, 2.0),),
    "consoles/echo-one": _ECHO,
    "consoles/echo-many": _ECHO,
    # KiB.
    "consoles/idle": (Target(GATEWAY, 128.0, 64.0),),
    # Milliseconds.
    "consoles/beside-uploads": (Target(GATEWAY, 20.0, 5.0),),
    "tunnel/get": _TUNNEL,
    "tunnel/put": _TUNNEL,
    "tunnel/get-both": _TUNNEL,
    "tunnel/put-both": _TUNNEL,
    "tunnel/echo-1": _TUNNEL_ECHO,
    "tunnel/echo-100": _TUNNEL_ECHO,
    "tunnel/echo-1000": _TUNNEL_ECHO,
    **{
        f"rpc/{kind}{what}-{transport}-{callers}": aim
        for kind, aim in (("", _CALLS), ("amp-", _AMP_CALLS))
        for what in ("info", "list")
        for transport in ("unix", "tls")
        for callers in ("one", "many")
    },
    "rpc/stock-info-one": _THROUGH,
    "rpc/stock-info-many": _THROUGH,
    "rpc/stock-upload": _UPLOAD,
    "fairness/p99": (Target(GATEWAY, None, 20.0),),
}
