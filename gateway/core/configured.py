"""Parts that are made anew of each configuration, at the start and at every reload."""

from __future__ import annotations

from collections.abc import Iterable

from gateway import errors
from gateway.core.clock import wall
from gateway.core.config_model import Config
from gateway.core.listeners import is_local
from gateway.core.pace import HttpLimits
from gateway.core.policy import Policy, parse_rule
from gateway.core.signers import Signers, load_signers
from gateway.core.tls_server import ServerContext


def policy(config: Config, own: Iterable[tuple[str, int]] = ()) -> Policy:
    """What may be reached.

    :param own: hosts and ports that we listen on ourselves.
    """
    rules = config.policy
    return Policy(map(parse_rule, rules.allow), map(parse_rule, rules.deny), own, is_local)


def signers(config: Config) -> Signers:
    """Whose tokens are good.

    :raises gateway.errors.ConfigError: a file is no good.
    """
    tokens = config.tokens
    return load_signers(tokens.engine_certificate, tokens.engine_ca, tokens.eku, tokens.jwt_keys)


def server_context(config: Config, section: str = "") -> ServerContext:
    """How we show who we are, and whom the service of this *section* lets in by a certificate.

    :raises gateway.errors.ConfigError: a file is missing, or no good.
    """
    tls = config.tls
    service = getattr(config, section, None)
    if tls.certificate is None or tls.key is None:
        raise errors.ConfigError(["[tls] certificate and key: have to be set"])
    return ServerContext(
        tls.certificate,
        tls.key,
        tls.chain,
        tls.minimum,
        ciphers=tls.ciphers,
        maximum=getattr(service, "tls_maximum", None),
        client_ca=getattr(service, "client_ca", None),
        crl=getattr(service, "client_crl", None),
        now=wall(),
    )


def http_limits(config: Config) -> HttpLimits:
    """What one connection of HTTP may cost."""
    limits = config.limits
    return HttpLimits(
        max_request_line=limits.request_line,
        max_head=limits.header_bytes,
        max_fields=limits.headers,
        max_body_control=limits.max_body_control,
        header_timeout=limits.header_timeout,
        keepalive_timeout=limits.keepalive_timeout,
        body_idle_timeout=limits.body_idle_timeout,
        body_rate=limits.body_rate,
        write_idle_timeout=limits.write_idle_timeout,
        discard_bytes=limits.discard_bytes,
        discard_time=limits.discard_time,
    )
