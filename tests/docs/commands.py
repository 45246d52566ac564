"""Finding the invocations of `hashclient` in files, and checking them without running anything."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator

import click

from hashclient.cli.main import cli
from tests.kit.context import context_of

#: At the beginning of a command; `/usr/local/bin/` and the like may stand before it.
_INVOCATION = re.compile(r"(?:^|[;&|(] *|ExecStart=)(?:/\S*/)?hashclient +(?P<rest>\S.*)$")


def invocations(script: str) -> Iterator[str]:
    """Yield what follows the word `hashclient` in the commands of a shell script or a unit file."""
    for line in script.replace("\\\n", " ").splitlines():
        found = _INVOCATION.search(line.strip())
        if found is not None:
            # Words behind an operator belong to other commands.
            yield re.split(r" (?:\|\|?|&&|;|\d?>|<) ?", found["rest"])[0]


def check_invocation(rest: str) -> str:
    """Fail unless the words after `hashclient` are a command and options that it has; return it."""
    words = shlex.split(rest, comments=True)
    command: click.Command = cli
    context = context_of(cli, info_name="hashclient")
    path = []
    while isinstance(command, click.Group) and words:
        word = words.pop(0)
        if word.startswith("-"):
            option = _option(command, word)
            if not option.is_flag and not option.count and "=" not in word:
                words.pop(0)
            continue
        child = command.get_command(context, word)
        assert child is not None, f"no command {word}: {rest}"
        path.append(word)
        command = child
    for word in words:
        if word == "--":
            break
        if re.match(r"-[a-z]$|--[a-z]", word):
            _option(command, word)
    return " ".join(path)


def _option(command: click.Command, word: str) -> click.Option:
    flag = word.partition("=")[0]
    for parameter in command.params:
        if isinstance(parameter, click.Option) and flag in parameter.opts:
            return parameter
    raise AssertionError(f"{command.name} has no option {flag}")
