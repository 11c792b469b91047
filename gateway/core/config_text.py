"""The configuration as text: what is in effect, and what could be said.

Secrets never appear; see :data:`gateway.core.config_types.hidden`.
"""

from __future__ import annotations

from textwrap import wrap

from pydantic.fields import FieldInfo

from gateway.core.config_model import SECTIONS, UNAVAILABLE, Config
from gateway.core.config_services import Section, Service, Target

_HEAD = """\
# The gateway's configuration, with every key it knows and the default of each.
#
# conf.d/*.conf beside this file are read after it, in order of name; the last to name a key wins.
# Relative paths are relative to this file. Lists: commas or indented lines.
# Durations: 250ms 90s 15m 1h 28d; sizes: 64K 8M 2G 1T.
# A service is on when its section is there: take away the # before its [name]. Check with:
#     twistd gateway --config FILE --check
"""


def show(config: Config) -> dict[str, dict[str, str | None]]:
    """The effective configuration: text by section and key, None for what is not set."""
    return {name: _texts(section) for name, section in config.sections()}


def _texts(section: Section) -> dict[str, str | None]:
    plain = section.model_dump(mode="json")
    return {key: None if value is None else str(value) for key, value in plain.items()}


def render(config: Config) -> str:
    """The effective configuration as a file that reads back as the same, but for hidden passwords."""
    lines: list[str] = []
    for name, keys in show(config).items():
        lines.append(f"[{name}]")
        lines += [f"{key} = {value}".rstrip() for key, value in keys.items() if value is not None]
        lines.append("")
    return "\n".join(lines)


def _default(model: type[Section], key: str, info: FieldInfo) -> str:
    if info.is_required():
        return ""
    shell = model.model_construct(**{key: info.default})
    return str(shell.model_dump(mode="json", include={key})[key] or "")


def document() -> str:
    """The documented configuration file: all keys with their help and defaults, as comments."""
    lines = [_HEAD]
    models: dict[str, type[Section]] = {**SECTIONS, "target NAME": Target}
    for name, model in models.items():
        lines += [f"# {line}" for line in wrap((model.__doc__ or "").partition("\n")[0], 108)]
        if name.split(" ")[0] in UNAVAILABLE:
            lines.append("# Not available in this version.")
        quiet = issubclass(model, (Service, Target)) and name not in ("control", "metrics")
        lines.append(f"# [{name}]" if quiet else f"[{name}]")
        for key, info in model.model_fields.items():
            text = info.description or ""
            lines += [
                f"#   {line}" for line in wrap(text + ("; required" if info.is_required() else ""), 106)
            ]
            lines.append(f"# {key} = {_default(model, key, info)}".rstrip())
        lines.append("")
    return "\n".join(lines)
