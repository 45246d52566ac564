"""Options that several commands have: how outcomes are written, and where to."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import click

from hashclient.cli.app import existing_path, format_option

FORMAT_HELP = "How the report is written; docs/formats.md describes each format."


def report_options(*formats: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Return a decorator that adds the options that say how outcomes are reported."""

    def add(function: Callable[..., Any]) -> Callable[..., Any]:
        for option in (
            click.option(
                "--show-digests",
                is_flag=True,
                help="Add the digests that were computed to each line.",
            ),
            click.option(
                "--all",
                "show_all",
                is_flag=True,
                help="Report clean and skipped inputs too, one by one.",
            ),
            output_option(),
            format_option(*formats, help=FORMAT_HELP),
        ):
            function = option(function)
        return function

    return add


def output_option() -> Callable[[Any], Any]:
    """Return the `--output` option."""
    return click.option(
        "--output",
        metavar="FILE",
        type=existing_path(dir_okay=False),
        help="Write the report to FILE instead of stdout.",
    )


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
