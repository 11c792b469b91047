"""Completion scripts for bash and zsh, made from the option tables so that they never drift."""

from __future__ import annotations

import shlex
from collections.abc import Iterator

from gateway.ctl.command import FILES, Command, Option

_BASH = """\
# Completion of gatewayctl for bash; made by 'gatewayctl completion bash'.
_gatewayctl() {{
    local cur=${{COMP_WORDS[COMP_CWORD]}} prev=${{COMP_WORDS[COMP_CWORD-1]}} path=gatewayctl i
    COMPREPLY=()
    # --name=value arrives as three words
    if [[ $cur == "=" ]]; then
        cur=
    elif [[ $prev == "=" ]]; then
        prev=${{COMP_WORDS[COMP_CWORD-2]}}
    fi
    for ((i = 1; i < COMP_CWORD; i++)); do
        case "$path ${{COMP_WORDS[i]}}" in
{deeper}
        esac
    done
    case "$path $prev" in
{values}
    esac
    if [[ $cur == -* ]]; then
        case $path in
{options}
        esac
        return
    fi
    case $path in
{arguments}
    esac
}}
complete -F _gatewayctl gatewayctl
"""
_WORDS = 'mapfile -t COMPREPLY < <(compgen -W {words} -- "$cur")'
_NAMES = 'compopt -o filenames 2>/dev/null; mapfile -t COMPREPLY < <(compgen -f -- "$cur")'


def script(root: type[Command], shell: str) -> str:
    """The script for *shell*, which is ``bash`` or ``zsh``."""
    return _bash(root) if shell == "bash" else _zsh(root)


def walk(command: type[Command], path: str = "gatewayctl") -> Iterator[tuple[str, type[Command]]]:
    """Each command with the words that lead to it, groups before their members."""
    yield path, command
    for name, _, below, _ in command.commands():
        yield from walk(below, f"{path} {name}")


def _bash(root: type[Command]) -> str:
    deeper, values, options, arguments = [], [], [], []
    for path, command in walk(root):
        if names := [name for name, *_ in command.commands()]:
            patterns = "|".join(f'"{path} {name}"' for name in names)
            deeper.append(f'{patterns}) path="$path ${{COMP_WORDS[i]}}" ;;')
            arguments.append(f'"{path}") {_complete(tuple(names))} ;;')
        elif command.completes:
            arguments.append(f'"{path}") {_complete(command.completes)} ;;')
        known = list(command.options())
        skipped = "|".join(f'"{path} {name}"' for it in known if it.value for name in it.spellings)
        deeper.append(f'{skipped}) [[ ${{COMP_WORDS[i+1]}} == "=" ]] && i=$((i + 2)) || i=$((i + 1)) ;;')
        for option in known:
            if option.value is not None:
                patterns = "|".join(f'"{path} {name}"' for name in option.spellings)
                what: str | tuple[str, ...] = FILES if option.value.files else option.value.words
                values.append(f"{patterns}) {_complete(what) if what else ':'}; return ;;")
        words = tuple(f"--{option.name}" for option in known)
        options.append(f'"{path}") {_complete(words)} ;;')
    return _BASH.format(
        deeper="\n".join(f"            {line}" for line in deeper),
        values="\n".join(f"        {line}" for line in values),
        options="\n".join(f"            {line}" for line in options),
        arguments="\n".join(f"        {line}" for line in arguments),
    )


def _complete(what: str | tuple[str, ...]) -> str:
    return _NAMES if what == FILES else _WORDS.format(words=shlex.quote(" ".join(what)))


def _zsh(root: type[Command]) -> str:
    functions = [_zsh_function(path, command) for path, command in walk(root)]
    head = "#compdef gatewayctl\n# Completion of gatewayctl for zsh; made by 'gatewayctl completion zsh'.\n"
    return head + "\n".join(functions) + '\n_gatewayctl "$@"\n'


def _zsh_function(path: str, command: type[Command]) -> str:
    name = "_" + path.replace(" ", "_")
    specs = [shlex.quote(text) for option in command.options() for text in _zsh_specs(option)]
    below = command.commands()
    if below:
        specs += ["'1: :->command'", "'*:: :->rest'"]
    elif command.completes == FILES:
        specs.append("'*:file:_files'")
    elif command.completes:
        specs.append(shlex.quote(f"1:word:({' '.join(command.completes)})"))
    lines = [f"{name}() {{", "    local curcontext=$curcontext state line", "    typeset -A opt_args"]
    lines.append("    _arguments -C " + " \\\n        ".join(specs))
    if below:
        described = " ".join(shlex.quote(f"{word}:{doc}") for word, _, _, doc in below)
        lines += [
            "    case $state in",
            "        command)",
            f"            local -a commands=({described})",
            "            _describe command commands ;;",
            "        rest)",
            "            case $line[1] in",
            *(f"                {word}) {name}_{word} ;;" for word, *_ in below),
            "            esac ;;",
            "    esac",
        ]
    return "\n".join([*lines, "}"])


def _zsh_specs(option: Option) -> Iterator[str]:
    """The option in the language of ``_arguments``, once for each spelling."""
    doc = "".join("\\" + it if it in "[]:\\" else it for it in option.doc)
    others = f"({' '.join(option.spellings)})"
    for spelling in option.spellings:
        if option.value is None:
            yield f"{others}{spelling}[{doc}]"
            continue
        action = "_files" if option.value.files else f"({' '.join(option.value.words)})"
        equals = "=" if spelling.startswith("--") else "+"
        yield f"{others}{spelling}{equals}[{doc}]:{option.name}:{action if action != '()' else ' '}"
