"""Each key of `config.toml` with wrong values: errors name the place, and the exit code is 2."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import click
import pytest
from msgspec import inspect

from hashclient.cli.defaults import command_defaults
from hashclient.cli.main import COMMANDS, cli
from hashclient.config.settings import COMMAND_TABLES, _Document, _Scans, parse_config
from hashclient.core.errors import ConfigError, ExitCode
from tests.kit import State

#: Values in TOML syntax: one of each type, and values that people take for another type.
VALUES = (
    *("true", "0", "-1", "1", str(10**30), "1.5", "nan", "inf", "-inf"),
    *('""', '"text"', '"31.01.2027"', '"20270131"', '"2027-02-30"', r'"a\u0000b"', '"true"'),
    *("2027-01-31", "2027-01-31T10:00:00Z", "2027-01-31 10:00:00", "10:00:00"),
    *("[]", '["x"]', "[1]", "[[]]", "[{}]", "{}", "{x = 1}", '{x = {y = "z"}}'),
)


#: Valid values of the required keys of each table, so that only the tested key is faulty.
REQUIRED = {
    "root_sha256": f'"{64 * "0"}"',
    "token_url": '"https://example.org/token"',
    "client_id": '"us"',
    "url": '"https://example.org"',
    "actions": '["record"]',
    "directory": '"/srv/packages"',
    "incident_type": '"a type"',
    "basic_file": '"/etc/basic"',
    "path": '"*"',
    "reason": '"limit"',
    "until": "2027-01-31",
    "command": '["/usr/local/bin/facts"]',
}
#: Names for tables whose names the user chooses; the name of a bucket's table is its URI.
NAMES = {"objects": '"s3://bucket"'}

#: The path to a key, in steps. Each step has a name or `[]`, and the other keys that its table
#: needs.
Way = tuple[tuple[str, str], ...]


def places(info: Any, above: Way = ()) -> Iterator[Way]:
    """Yield the path to each key: names of tables, `[]` for an item of a list, and the key."""
    match info:
        case inspect.UnionType():
            for kind in info.types:
                yield from places(kind, above)
        case inspect.StructType():
            needed = {f.encode_name: REQUIRED[f.encode_name] for f in info.fields if f.required}
            if info.tag_field:
                needed[info.tag_field] = f'"{info.tag}"'
            kinds = {field.encode_name: field.type for field in info.fields}
            for key in {**kinds, **needed}:
                beside = "".join(f", {k} = {v}" for k, v in needed.items() if k != key)
                yield (*above, (key, beside))
                yield from places(kinds.get(key), (*above, (key, beside)))
        case inspect.DictType():
            name = NAMES.get(above[-1][0], "name")
            yield (*above, (name, ""))
            yield from places(info.value_type, (*above, (name, "")))
        case inspect.VarTupleType():
            yield from places(info.item_type, (*above, ("[]", "")))


def written(place: Way, value: str) -> str:
    """Return a file with one key and the keys that its tables need, in inline tables."""
    text = value
    for step, beside in reversed(place):
        text = f"[{text}]" if step == "[]" else f"{{{step} = {text}{beside}}}"
    return text[1:-1]


def refused(use: Callable[[str], object], key: str) -> list[ConfigError]:
    """Use each of `VALUES`, check each error, and return the errors."""
    errors = []
    for value in VALUES:
        try:
            use(value)
        except ConfigError as error:
            errors.append(error)
    assert {error.exit_code for error in errors} <= {ExitCode.USAGE}
    assert all("the/file" in e.message and e.message.isprintable() for e in errors)
    assert [e.message for e in errors if key not in f"{e.message} {e.hint}"] == []
    assert all(e.hint or ": expected " in e.message for e in errors), "what is right"
    return errors


KEYS = sorted({*places(inspect.type_info(_Document)), *places(inspect.type_info(_Scans))})


@pytest.mark.sampled
@pytest.mark.parametrize(
    "place", KEYS, ids=lambda place: f"{'.'.join(n for n, _ in place)}{place[-1][1][:24]}"
)
def test_a_wrong_value_is_an_error_that_says_where_and_what_is_right(place: Way) -> None:
    key = [name.strip('"') for name, _ in place if name != "[]"][-1]
    errors = refused(lambda value: parse_config(written(place, value), "the/file"), key)
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

    refused(use, key)


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
