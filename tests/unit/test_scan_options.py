"""The options of a scan are declared once: flags, defaults and help are made from that."""

from __future__ import annotations

from typing import get_type_hints

import click
import pytest

from hashclient.cli.defaults import command_defaults
from hashclient.cli.main import cli
from hashclient.scan.values.options import ScanOptions
from tests.kit.context import context_of

DEFAULTS = ScanOptions()
#: The help text of each option that has one; the other options exist only in Python.
HELP = {
    name: hint.__metadata__[0].help
    for name, hint in get_type_hints(ScanOptions, include_extras=True).items()
    if hasattr(hint, "__metadata__")
}


def command(name: str) -> click.Command:
    found = cli.get_command(context_of(cli), name)
    assert found is not None
    return found


def options_of(name: str) -> dict[str, click.Option]:
    """Return the options of a command that are options of a scan."""
    return {
        option.name: option
        for option in command(name).params
        if isinstance(option, click.Option) and option.name in HELP
    }


def values(name: str, *words: str, table: dict[str, object] | None = None) -> ScanOptions:
    """Return the options of a scan for this command line and this configuration table."""
    defaults = command_defaults(table or {}, name, command(name), "config.toml")
    context = command(name).make_context(name, ["directory", *words], default_map=defaults)
    given = {field: context.params[field] for field in options_of(name)}
    return DEFAULTS._replace(**given)


def test_scan_has_each_option_that_is_declared() -> None:
    assert options_of("scan").keys() == HELP.keys()


@pytest.mark.parametrize("name", ["scan", "watch"])
def test_the_help_and_the_defaults_of_a_command_are_those_that_are_declared(name: str) -> None:
    options = options_of(name)
    assert {option: about.help for option, about in options.items()} == {
        option: HELP[option] for option in options
    }
    assert values(name) == DEFAULTS


@pytest.mark.parametrize(
    ("words", "table", "expected"),
    [
        (["--no-members"], {}, ScanOptions(members=False)),
        (["--no-exceptions"], {}, ScanOptions(exceptions=False)),
        ([], {"no_members": True}, ScanOptions(members=False)),
        ([], {"no_members": False}, DEFAULTS),
        ([], {"sparse": True, "jobs": 3}, ScanOptions(sparse=True, jobs=3)),
        (["--jobs", "4"], {"jobs": 3}, ScanOptions(jobs=4)),
        (["--exclude", "a", "--exclude", "b"], {}, ScanOptions(exclude=("a", "b"))),
        ([], {"exclude": ["a"]}, ScanOptions(exclude=("a",))),
    ],
)
def test_flags_and_tables_set_the_options(
    words: list[str], table: dict[str, object], expected: ScanOptions
) -> None:
    assert values("scan", *words, table=table) == expected


def test_a_variable_of_the_environment_sets_an_option(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HASHCLIENT_SCAN_NO_ACTIONS", "1")
    assert values("scan") == ScanOptions(actions=False)


def test_a_number_out_of_range_is_refused() -> None:
    with pytest.raises(click.BadParameter, match="1<=x<=256"):
        values("scan", "--jobs", "0")


def test_an_option_that_takes_a_value_is_refused_without_one() -> None:
    taking = [option for option in options_of("scan").values() if not option.is_flag]
    assert len(taking) == 3
    for option in taking:
        with pytest.raises(click.BadOptionUsage, match="requires an argument"):
            values("scan", option.opts[0])
