"""The help: every command has one, every option is described, examples are real commands."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator

import click
import pytest

from hashclient.cli.main import cli
from hashclient.core.errors import ExitCode
from tests.docs.blocks import run_command
from tests.kit.context import context_of

pytestmark = pytest.mark.docs

WIDTH = 80


def commands(
    command: click.Command = cli, path: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """Yield every command and group with its words, beginning with the program."""
    yield path, command
    if isinstance(command, click.Group):
        context = context_of(command)
        for name in command.list_commands(context):
            child = command.get_command(context, name)
            assert child is not None
            yield from commands(child, (*path, name))


ALL = dict(commands())
each_command = pytest.mark.parametrize("path", ALL, ids=lambda p: "-".join(p) or "hashclient")


def help_of(path: tuple[str, ...]) -> str:
    """Return the help as a terminal of the usual width shows it."""
    with context_of(cli, info_name="hashclient", terminal_width=WIDTH - 2) as context:
        for word in path:
            assert isinstance(context.command, click.Group)
            child = context.command.get_command(context, word)
            assert child is not None
            context = context_of(child, info_name=word, parent=context)
        return context.get_help()


@each_command
def test_it_fits_a_terminal(path: tuple[str, ...]) -> None:
    text = help_of(path)
    assert text.startswith("Usage: " + " ".join(["hashclient", *path]))
    assert [line for line in text.splitlines() if len(line) > WIDTH] == []


@each_command
def test_every_option_is_described(path: tuple[str, ...]) -> None:
    for parameter in ALL[path].params:
        if isinstance(parameter, click.Option) and not parameter.hidden:
            assert re.search(r"\w{2}.*\.( \[default: .+\])?$", parameter.help or ""), parameter.name


@each_command
def test_it_says_what_it_does_in_one_sentence_first(path: tuple[str, ...]) -> None:
    first = (ALL[path].help or "").split("\n\n")[0]
    assert first.endswith(".") and first[0].isupper()


def examples() -> list[tuple[tuple[str, ...], str]]:
    found = []
    for path, command in ALL.items():
        text = (command.help or "").replace("\\\n", " ")
        for line in re.findall(r"^ +(?:.*\| )?(hashclient .+)$", text, re.MULTILINE):
            # Cut off the explanation, which follows two or more blanks, and the command behind a
            # bar.
            shown = re.split(r" {2,}| \| ", re.sub(r" {6,}(?=-)", " ", line))[0]
            found.append((path, shown))
    return found


@pytest.mark.sampled
@pytest.mark.parametrize("line", dict.fromkeys(line for _, line in examples()))
def test_every_example_is_a_command_with_such_options(line: str) -> None:
    words = shlex.split(line)[1:]
    command: click.Command = cli
    context = context_of(cli, info_name="hashclient")
    while isinstance(command, click.Group):
        if command.invoke_without_command and (not words or words[0].startswith("-")):
            break  # this group is also a command with its own options
        words = words[1:] if words[0].startswith("-") else words
        child = command.get_command(context, words.pop(0))
        assert child is not None, line
        command = child
    # The command is only parsed, so its files need not exist.
    known = {flag for option in command.params for flag in option.opts}
    for word in words:
        if word.startswith("--") or (len(word) == 2 and word[0] == "-" and word[1] != "-"):
            assert word.partition("=")[0] in known, line


def test_every_command_has_an_example() -> None:
    with_example = {path for path, _ in examples()}
    assert {p for p, c in ALL.items() if not isinstance(c, click.Group)} <= with_example


def test_the_real_command_shows_every_exit_code() -> None:
    done = run_command("--help", HASHCLIENT_CONFIG="no-such-file")
    assert done.returncode == 0
    assert done.stderr == ""
    for code in ExitCode:
        assert f"  {code.value:>3}  {code.meaning}\n" in done.stdout


@pytest.mark.parametrize("words", [["scan", "--help"], ["fetch", "-h"], ["audit", "show", "-h"]])
def test_help_works_with_a_broken_configuration(words: list[str]) -> None:
    done = run_command("--config", "no-such-file", *words)
    assert done.returncode == 0
    assert done.stdout.startswith("Usage: hashclient ")
