"""Finding the invocations of `hashclient` in files, and checking them without running anything."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator

import click

from hashclient.cli.main import cli
from tests.kit.context import context_of

#: An invocation at the beginning of a command, perhaps with a path such as `/usr/local/bin/`.
_INVOCATION = re.compile(r"(?:^|[;&|(] *|ExecStart=)(?:/\S*/)?hashclient +(?P<rest>\S.*)$")


def invocations(script: str) -> Iterator[str]:
    """Yield the words behind `hashclient` in the commands of a shell script or a unit file."""
    for line in script.replace("\\\n", " ").splitlines():
        found = _INVOCATION.search(line.strip())
        if found is not None:
            # Words behind an operator belong to another command.
            yield re.split(r" (?:\|\|?|&&|;|\d?>|<) ?", found["rest"])[0]


def check_invocation(rest: str) -> str:
    """Check that the words are an existing command with its options, and return the command."""
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
