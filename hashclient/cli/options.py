"""Options that several commands have: how outcomes are written, and where to."""

from __future__ import annotations

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
                "--all", "show_all", is_flag=True, help="Report clean inputs one by one too."
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
