"""Options that a command gets together, as one value.

`declared_options` makes options for the fields of a value. Those of a scan are such fields: their
types, defaults and help are declared in `scan/values/options`. A build makes the man pages from the
options, and has click alone: so these values are named tuples.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, get_args, get_type_hints

import click

from hashclient.cli.app import format_option
from hashclient.cli.options import FORMAT_HELP, Decorated, output_option, together

if TYPE_CHECKING:
    from pathlib import Path


def gathered(name: str, kind: Any, *options: Callable[[Any], Any]) -> Callable[[Decorated], Any]:
    """Return a decorator for options whose values a command gets together.

    They come as one `kind`, a named tuple with a field for each of them, as the argument `name`.
    """

    def decorate(function: Decorated) -> Any:
        @functools.wraps(function)
        def with_one_value(*args: Any, **given: Any) -> Any:
            values = {field: given.pop(field) for field in kind._fields if field in given}
            return function(*args, **{name: kind(**values)}, **given)

        return together(*options)(with_one_value)

    return decorate


def declared_options(kind: Any, *names: str) -> Callable[[Decorated], Any]:
    """Return a decorator for the options of some fields of `kind`; they come as `options`."""
    return gathered("options", kind, *(declared(kind, name) for name in names))


def declared(kind: Any, name: str) -> Callable[[Any], Any]:
    """Return the option for a field of `kind`, which declares its type, default and help.

    A field that is true by default is turned off by a flag that begins with `--no-`.
    """
    _, about = get_args(get_type_hints(kind, include_extras=True)[name])
    default, flag = getattr(kind(), name), name.replace("_", "-")
    attributes: dict[str, Any] = {"help": about.help, "metavar": about.metavar}
    if about.range is not None:
        attributes["type"] = click.IntRange(*about.range)
    if default is True:
        return negative(flag, name, **attributes)
    if default is False:
        # Not `False` for other options: click makes flags of some of them all the same.
        attributes["is_flag"] = True
    return click.option(f"--{flag}", multiple=default == (), **attributes)


def negative(flag: str, name: str, **attributes: Any) -> Callable[[Any], Any]:
    """Return the option `--no-FLAG`, which makes the argument `name` false."""
    return click.option(
        f"--no-{flag}", name, is_flag=True, callback=lambda _ctx, _option, no: not no, **attributes
    )


class OutcomeOptions(NamedTuple):
    """How outcomes are written: the options of `scan` and `lookup`."""

    output_format: str
    output: Path | None
    show_all: bool
    show_digests: bool
    sort: bool = False


def outcome_options(
    *formats: str, digests: str = "computed digests", more: Sequence[Callable[[Any], Any]] = ()
) -> Callable[[Decorated], Any]:
    """Return a decorator that adds the options that say how outcomes are written, and `more`.

    `digests` says which digests an outcome has. A command gets them all as `written`.
    """
    return gathered(
        "written",
        OutcomeOptions,
        format_option(*formats, help=FORMAT_HELP),
        output_option,
        click.option(
            "--show-all",
            is_flag=True,
            help="Write clean and skipped inputs too, one by one.",
        ),
        click.option(
            "--show-digests",
            is_flag=True,
            help=f"Add the {digests} to each line.",
        ),
        *more,
    )
