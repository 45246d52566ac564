"""Each key of `config.toml` with values of each wrong kind: errors say where, exit code 2."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import click
import pytest
from msgspec import inspect

from hashclient.cli.defaults import command_defaults
from hashclient.cli.main import COMMANDS, cli
from hashclient.config import COMMAND_TABLES, _Document, _Scans, parse_config
from hashclient.errors import ConfigError, ExitCode
from tests.kit import State

#: Values as they are written: of each type of TOML, and what is easily mistaken for another.
VALUES = (
    *("true", "0", "-1", "1", str(10**30), "1.5", "nan", "inf", "-inf"),
    *('""', '"text"', '"31.01.2027"', '"20270131"', '"2027-02-30"', r'"a\u0000b"', '"true"'),
    *("2027-01-31", "2027-01-31T10:00:00Z", "2027-01-31 10:00:00", "10:00:00"),
    *("[]", '["x"]', "[1]", "[[]]", "[{}]", "{}", "{x = 1}", '{x = {y = "z"}}'),
)


def places(info: Any, above: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Yield the way to each key: names of tables, `[]` for an item of a list, and the key."""
    match info:
        case inspect.UnionType():
            for kind in info.types:
                yield from places(kind, above)
        case inspect.StructType():
            for field in info.fields:
                yield (*above, field.encode_name)
                yield from places(field.type, (*above, field.encode_name))
            if info.tag_field:
                yield (*above, info.tag_field)
        case inspect.DictType():
            yield (*above, "name")
            yield from places(info.value_type, (*above, "name"))
        case inspect.VarTupleType():
            yield from places(info.item_type, (*above, "[]"))


def written(place: tuple[str, ...], value: str) -> str:
    """Return a file with nothing but one key, in inline tables."""
    text = value
    for step in reversed(place):
        text = f"[{text}]" if step == "[]" else f"{{{step} = {text}}}"
    return text[1:-1]


def refused(use: Callable[[str], object]) -> list[ConfigError]:
    """Use each of the values, and return the errors that there were; each is as it should be."""
    errors = []
    for value in VALUES:
        try:
            use(value)
        except ConfigError as error:
            errors.append(error)
    assert {error.exit_code for error in errors} <= {ExitCode.USAGE}
    assert all("the/file" in e.message and e.message.isprintable() for e in errors)
    return errors


KEYS = sorted({*places(inspect.type_info(_Document)), *places(inspect.type_info(_Scans))})


@pytest.mark.sampled
@pytest.mark.parametrize("place", KEYS, ids=".".join)
def test_a_wrong_value_is_an_error_that_says_where(place: tuple[str, ...]) -> None:
    errors = refused(lambda value: parse_config(written(place, value), "the/file"))
    assert len(errors) > len(VALUES) / 3, "most of these fit no key"


OPTIONS = sorted(
    (name, option.name)
    for name in COMMAND_TABLES & COMMANDS.keys()
    for option in (cli.get_command(click.Context(cli), name) or click.Command(None)).params
    if isinstance(option, click.Option) and option.name
)


@pytest.mark.sampled
@pytest.mark.parametrize(("name", "key"), OPTIONS)
def test_a_wrong_default_of_an_option_is_an_error_that_says_where(name: str, key: str) -> None:
    command = cli.get_command(click.Context(cli), name)
    assert command is not None

    def use(value: str) -> None:
        config = parse_config(f"[{name}]\n{key} = {value}", "the/file")
        command_defaults(config.commands[name], name, command, "the/file")

    errors = refused(use)
    assert all(key in error.message for error in errors)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            '[[scan.accept]]\npath = "*"\nreason = "limit"\nuntil = "31.01.2027"\n',
            "wrong type of 'until' in [[scan.accept]] number 1: expected a date such as 2027-01-31",
        ),
        (
            '[[scan.accept]]\npath = "*"\nreason = "limit"\nuntil = 2027-01-31\n[[scan.accept]]\n',
            "'path' is missing in [[scan.accept]] number 2",
        ),
    ],
)
def test_the_command_says_so_as_well(state: State, text: str, said: str) -> None:
    state.configure(text)
    for done in (state.call("scan", state.tree), state.call("status")):
        assert done.code == ExitCode.USAGE
        assert said in done.err


@pytest.fixture
def state(tmp_path: Any) -> State:
    return State(tmp_path, {"base": {"e-1": b"listed"}}, {"a": b"x"})
