"""Man pages and completion scripts, made from the commands, so that both always agree.

`hatch_build.py` puts the pages and scripts into the wheel. Each command has a page, and the page of
a group includes the group's commands. The pages use the man macros that groff and mandoc share.
`tests/docs/test_help.py` checks the form of help texts: paragraphs, blocks of examples after `\\b`,
and exit codes at the end.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Iterator
from datetime import date

import click
from click.shell_completion import BashComplete, FishComplete, ShellComplete, ZshComplete

from hashclient.cli.defaults import OTHER_VARIABLES
from hashclient.cli.main import cli
from hashclient.cli.options import option_variables
from hashclient.core.errors import ExitCode
from hashclient.core.version import __version__

NAME = "hashclient"
CONFIG_PAGE = f"{NAME}-config"

#: The paths of completion scripts below the prefix of an installation, with click's class.
COMPLETIONS = {
    f"share/bash-completion/completions/{NAME}": BashComplete,
    f"share/zsh/site-functions/_{NAME}": ZshComplete,
    f"share/fish/vendor_completions.d/{NAME}.fish": FishComplete,
}

_EXIT_CODES = "Exit codes: "
_FLAG = re.compile(r"(?<![\w-])(--?[a-z][a-z-]*)")
_ESCAPES = {"\\": r"\e", "-": r"\-", "^": r"\(ha", "~": r"\(ti", "`": r"\(ga", "'": r"\(aq"}
_QUOTED = re.compile(r"`([^`]+)`")

_FILES = {
    "/etc/hashclient/config.toml": "The configuration, for root.",
    "~/.config/hashclient/config.toml": "The configuration, for others.",
    "/var/lib/hashclient": "The state directory, for root.",
    "~/.local/state/hashclient": "The state directory, for others.",
}


def data_files(made: date) -> dict[str, str]:
    """Return all pages and scripts by their paths below the prefix; pages are dated `made`."""
    found = {f"share/man/man1/{name}.1": text for name, text in pages(made).items()}
    for path, shell in COMPLETIONS.items():
        completion = shell(cli, {}, NAME, f"_{NAME.upper()}_COMPLETE")
        # The base class's method, because click's method for bash would run this machine's bash.
        found[path] = ShellComplete.source(completion)
    return found


def pages(made: date) -> dict[str, str]:
    """Return the page of every command by its name: `hashclient`, `hashclient-scan` and so on."""
    root = _context(cli)
    contexts = [root, *_children(root)]
    return {_title(context): page(context, made) for context in contexts}


def _context(command: click.Command, parent: click.Context | None = None) -> click.Context:
    # The name has no line breaks, because the program that shows the page breaks lines.
    name = NAME if parent is None else command.name
    settings = command.context_settings
    return click.Context(command, parent, name, terminal_width=10_000, **settings)


def _children(context: click.Context) -> list[click.Context]:
    """Return the contexts of a group's commands in the group's order; [] if it is no group."""
    group, found = context.command, []
    if isinstance(group, click.Group):
        for name in group.list_commands(context):
            command = group.get_command(context, name)
            assert command is not None
            found.append(_context(command, context))
    return found


def _title(context: click.Context) -> str:
    return context.command_path.replace(" ", "-")


def page(context: click.Context, made: date) -> str:
    """Return the page of the program with all its commands, or the page of one command."""
    is_program = context.parent is None
    title, children = _title(context), _children(context)
    paragraphs = _paragraphs(context.command)
    short = " ".join(paragraphs[0].split()).rstrip(".").replace("`", "")
    lines = [
        f'.TH {title.upper()} 1 {made:%Y-%m-%d} "{NAME} {__version__}" "{NAME} manual"',
        ".SH NAME",
        rf"{_escape(title)} \- {_escape(short[:1].lower() + short[1:])}",
        ".SH SYNOPSIS",
        *_synopsis(context),
        ".SH DESCRIPTION",
        *_description(paragraphs),
        ".SH OPTIONS",
        *_options(context),
    ]
    if children:
        lines.append(".SH COMMANDS")
    for child in children:
        if is_program:
            lines += [".TP", f"{bold(_title(child))}(1)"]
            lines.append(bold_quoted(_paragraphs(child.command)[0]))
        else:
            lines += _section(child)
    lines.append(".SH EXIT STATUS")
    if is_program:
        lines += _list((str(code.value), f"{code.meaning}.") for code in ExitCode)
    else:
        lines += _exit_codes(paragraphs) or [f"The codes are those of {bold(NAME)}(1)."]
    lines.append(".SH ENVIRONMENT")
    lines += [*_list(_global_variables(context)), ".PP"] if is_program else []
    lines += _environment(children if is_program else [context])
    lines += [".SH FILES", *_list(_FILES.items())]
    if examples := [text for text in paragraphs if text.startswith("\b")]:
        lines += [".SH EXAMPLES", *_blocks(examples)]
    others = sorted(map(_title, children)) if is_program else [NAME]
    known = [*(f"{bold(other)}(1)" for other in others), f"{bold(CONFIG_PAGE)}(5)"]
    lines += [".SH SEE ALSO", ",\n".join(known)]
    # `.PP` after a heading is removed, because a heading starts a paragraph by itself.
    return re.sub(r"^(\.S[HS] .*)\n\.PP$", r"\1", "\n".join(lines), flags=re.MULTILINE) + "\n"


def _section(context: click.Context) -> Iterator[str]:
    """Yield the lines of a group's page about one of its commands and its subcommands."""
    paragraphs = _paragraphs(context.command)
    yield f".SS {_escape(context.command_path)}"
    yield from _synopsis(context)
    yield ".PP"
    yield from _description(paragraphs)
    yield from _options(context)
    yield from _blocks(text for text in paragraphs if text.startswith("\b"))
    for text in _exit_codes(paragraphs):
        yield from (".PP", _EXIT_CODES + text)
    for child in _children(context):
        yield from _section(child)


def _paragraphs(command: click.Command) -> list[str]:
    return re.split(r"\n{2,}", inspect.cleandoc(command.help or ""))


def _synopsis(context: click.Context) -> Iterator[str]:
    pieces = context.command.collect_usage_pieces(context)
    yield f"{bold(context.command_path)} {_escape(' '.join(pieces))}"


def _description(paragraphs: Iterable[str]) -> Iterator[str]:
    texts = [t for t in paragraphs if not t.startswith(("\b", _EXIT_CODES))]
    yield "\n.PP\n".join(bold_quoted(text) for text in texts)


def _exit_codes(paragraphs: Iterable[str]) -> list[str]:
    texts = [text for text in paragraphs if text.startswith(_EXIT_CODES)]
    return [bold_quoted(text.removeprefix(_EXIT_CODES)) for text in texts]


def _options(context: click.Context) -> Iterator[str]:
    for parameter in context.command.get_params(context):
        record = parameter.get_help_record(context)
        if isinstance(parameter, click.Option) and record is not None:
            names, text = record
            yield from (".TP", _bold_matches(_FLAG, names), bold_quoted(text))


def _environment(contexts: Iterable[click.Context]) -> Iterator[str]:
    """Yield the section on environment variables, with a command of `contexts` as the example."""
    for option in (option for context in contexts for option in _variables(context)):
        yield bold_quoted(
            f"Every option has a variable, such as {option_variables(option)[0]} for"
            f" {option.opts[-1]}."
        )
        yield "A flag outranks the environment, which outranks the configuration."
        return
    yield f"That of {bold(NAME)}(1)."


def _global_variables(context: click.Context) -> Iterator[tuple[str, str]]:
    """Yield the variables of the program's global options, then variables without an option."""
    for option in context.command.params:
        if isinstance(option, click.Option) and option.expose_value:
            value = "1: as" if option.is_flag else "As"
            yield option_variables(option)[0], f"{value} {option.opts[-1]}."
    yield from OTHER_VARIABLES.items()


def _variables(context: click.Context) -> Iterator[click.Option]:
    for parameter in context.command.params:
        if isinstance(parameter, click.Option) and parameter.envvar:
            yield parameter
    for child in _children(context):
        yield from _variables(child)


def _list(items: Iterable[tuple[str, str]]) -> Iterator[str]:
    for term, text in items:
        yield from (".TP", bold(term), bold_quoted(text))


def _blocks(texts: Iterable[str]) -> Iterator[str]:
    for text in texts:
        lines = text.removeprefix("\b").strip("\n").splitlines()
        indent = min(len(line) - len(line.lstrip()) for line in lines)
        yield from example([line[indent:] for line in lines])


def example(lines: Iterable[str]) -> Iterator[str]:
    """Yield lines of preformatted text."""
    yield from (".PP", ".RS 4", ".nf")
    yield from (_guard(_escape(line)) for line in lines)
    yield from (".fi", ".RE")


def bold_quoted(text: str) -> str:
    """Return a paragraph on one line, with text between backticks in bold."""
    return _bold_matches(_QUOTED, " ".join(text.split()))


def bold(text: str) -> str:
    """Return `text` in bold."""
    return rf"\fB{_escape(text)}\fR"


def _bold_matches(pattern: re.Pattern[str], text: str) -> str:
    """Return `text` with each match of the one group of `pattern` in bold."""
    pieces = pattern.split(text)
    pieces[0::2] = map(_escape, pieces[0::2])
    pieces[1::2] = map(bold, pieces[1::2])
    return _guard("".join(pieces))


def _escape(text: str) -> str:
    r"""Return `text` escaped for roff; `_guard` escapes the beginnings of lines."""
    shown = "".join(_ESCAPES.get(char, char) for char in text)
    return "".join(c if c.isascii() else rf"\[u{ord(c):04X}]" for c in shown)


def _guard(line: str) -> str:
    """Return a line of text escaped so that roff does not read the line as a request."""
    return rf"\&{line}" if line.startswith((".", "'")) else line
