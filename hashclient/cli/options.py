"""Options that several commands have.

A table in `docs/architecture.md` says what each word means in every command.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from typing import Any, TypeVar

import click
from click.core import ParameterSource

from hashclient.cli.app import App, existing_path
from hashclient.errors import UsageError

FORMAT_HELP = "How the output is written; docs/formats.md describes each format."


Decorated = TypeVar("Decorated", bound=Callable[..., Any])


def together(*options: Callable[[Any], Any]) -> Callable[[Decorated], Decorated]:
    """Return one decorator for several options, which are in the help in this order."""

    def add(function: Decorated) -> Decorated:
        for option in reversed(options):
            function = option(function)
        return function

    return add


output_option = click.option(
    "--output",
    metavar="FILE",
    type=existing_path(dir_okay=False),
    help="Write the output to FILE instead of stdout.",
)


def _not_blank(_ctx: click.Context, _param: click.Parameter, reason: str | None) -> str | None:
    if reason is not None and not reason.strip():
        raise UsageError("--reason is empty", hint="give a reason: it goes into the audit log")
    return reason


def reason_option(**default: Any) -> Callable[[Any], Any]:
    """Return the `--reason` option, which must not be blank; it is required without a default."""
    # For click, a default of None counts as a default.
    required = not default
    return click.option(
        "--reason",
        metavar="TEXT",
        required=required,
        show_default=not required,
        help="Why; it goes into the audit log.",
        callback=_not_blank,
        **default,
    )


def refuse_before_command(ctx: click.Context) -> None:
    """Refuse options of a group that stand before a subcommand, which would ignore them.

    Raises:
        UsageError: there are such options.
    """
    for name in ctx.params:
        if ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE:
            raise UsageError(
                f"options of `{ctx.info_name}` alone stand before `{ctx.invoked_subcommand}`",
                hint=f"write them after it: `{ctx.command_path} {ctx.invoked_subcommand} …`",
            )


def refuse_lost_directory(paths: Iterable[str]) -> None:
    """Refuse relative paths where the working directory was removed: they lead nowhere.

    Raises:
        UsageError: there is one.
    """
    if not has_directory() and any(path != "-" and path[:1] != "/" for path in paths):
        raise lost_directory()


def lost_directory() -> UsageError:
    """Return the error of a relative path without a working directory."""
    return UsageError(
        "the working directory was removed", hint="change to another one, or give absolute paths"
    )


def has_directory() -> bool:
    """Return whether there is a working directory."""
    try:
        os.getcwd()  # noqa: PTH109 - only whether there is one
    except FileNotFoundError:
        return False
    return True


def option_variables(parameter: click.Parameter) -> Sequence[str]:
    """Return the environment variables of an option; the first that is set counts."""
    names = parameter.envvar
    return () if names is None else (names,) if isinstance(names, str) else names


class _Anywhere(click.Option):
    """`-q` or `-v` after the name of a command, with the same effect as before the name."""

    def __init__(self, *names: str, change: Callable[[App, int], None], **attributes: Any) -> None:
        def apply(ctx: click.Context, _parameter: click.Parameter, value: int) -> None:
            app = ctx.find_object(App)
            if value and app is not None and not ctx.resilient_parsing:
                change(app, -1 if self.is_bool_flag else value)

        super().__init__(
            names,
            hidden=True,
            expose_value=False,
            is_eager=True,
            allow_from_autoenv=False,
            callback=apply,
            **attributes,
        )


def add_verbosity(command: click.Command, change: Callable[[App, int], None]) -> None:
    """Accept `-q` and `-v` after `command` and all commands below it.

    `change` is called with -1 for `-q`, else with the number of `-v`.
    """
    taken = {flag for parameter in command.params for flag in parameter.opts}
    for flags, attributes in _VERBOSITY.items():
        if taken.isdisjoint(flags):
            command.params.append(_Anywhere(*flags, change=change, **attributes))
    if isinstance(command, click.Group):
        for sub_command in command.commands.values():
            add_verbosity(sub_command, change)


_VERBOSITY: dict[tuple[str, str], dict[str, Any]] = {
    ("-q", "--quiet"): {"is_flag": True},
    ("-v", "--verbose"): {"count": True, "type": click.IntRange(min=0)},
}
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_DURATION = re.compile(r"(?P<number>[0-9]+)(?P<unit>[smhd]?)")


class _Duration(click.ParamType[Any]):
    """A length of time, such as `90`, `30m` or `1h`; the value is in seconds."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        found = _DURATION.fullmatch(str(value))
        if found is None or not int(found["number"]):
            self.fail(f"{value!r} is no length of time, such as 90, 30m or 1h", param, ctx)
        return float(int(found["number"]) * _UNITS[found["unit"] or "s"])


DURATION = _Duration()


class _Time(click.ParamType[Any]):
    """A date, or a date and time, in ISO 8601 or as we write it; UTC unless it says otherwise."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        text = str(value).strip()
        # As people are shown it: `2026-01-31 12:00 UTC`, `2026-01-31 13:00 +01:00`.
        spelt = re.sub(r" (?=[+-])", "", re.sub(r" UTC\Z", "Z", text))
        try:
            time = datetime.fromisoformat(spelt)
            return time.astimezone(UTC) if time.tzinfo else time.replace(tzinfo=UTC)
        except (ValueError, OverflowError):  # at the ends of time
            self.fail(f"{text!r} is not like 2026-01-31 or 2026-01-31T12:00Z", param, ctx)


TIME = _Time()
