"""Options that several commands have, and the completion of arguments in a shell.

A table in `docs/architecture.md` says what the name of each option means in every command.

`gathered` passes several options to a command as one value. `declared_options` makes an option for
each field of a type. The options of a scan are fields with types, defaults and help in
`hashclient/scan/values/options.py`. The types of these options are named tuples and not msgspec
structs, because the build that makes the man pages from the options has only click installed.

A shell can complete ids of matches, reports and notices, and names of lists and roles. Completion
reads the state directory that the command line before the cursor names. After an error, completion
offers no words and prints no message.
"""

from __future__ import annotations

import contextlib
import functools
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, get_args, get_type_hints

import click
from click.core import ParameterSource

from hashclient.cli.app import App, existing_path, format_option
from hashclient.core.errors import HashclientError, UsageError
from hashclient.system.files import user_path
from hashclient.system.text import as_unicode, printable

FORMAT_HELP = "How the output is written; docs/formats.md describes each format."


Decorated = TypeVar("Decorated", bound=Callable[..., Any])


def together(*options: Callable[[Any], Any]) -> Callable[[Decorated], Decorated]:
    """Return one decorator for several options; the help shows the options in this order."""

    def add(function: Decorated) -> Decorated:
        for option in reversed(options):
            function = option(function)
        return function

    return add


#: The option `--output` of a command whose result is a file.
written_option = click.option(
    "--output",
    type=existing_path(dir_okay=False),
    metavar="FILE",
    required=True,
    help="Where to write the result; an existing file is replaced.",
)
output_option = click.option(
    "--output",
    metavar="FILE",
    type=existing_path(dir_okay=False),
    help="Write the output to FILE instead of stdout.",
)


#: The option `--output` of a command that computes its whole result before `outputfile.write_whole`
#: writes the result.
whole_output_option = click.option(
    "-o",
    "--output",
    type=existing_path(dir_okay=False),
    metavar="FILE",
    help="Write to FILE instead of stdout, in one step.",
)


def free_text(_ctx: click.Context, _param: click.Parameter, text: str | None) -> str | None:
    """Return the text of an option, with bytes that are not UTF-8 replaced."""
    return None if text is None else as_unicode(text)


def not_blank(ctx: click.Context, param: click.Parameter, reason: str | None) -> str | None:
    """Refuse an option with a blank text."""
    if reason is not None and not reason.strip():
        raise UsageError(
            f"--{param.name} is empty", hint="give a reason: it goes into the audit log"
        )
    return free_text(ctx, param, reason)


def split_entry(entry: str, by_id: str = "ID, without --entry") -> tuple[str, str]:
    """Return the list and the entry id from a text LIST/ENTRY.

    `by_id` is a part of the error message, which says how the command accepts the id of a match
    instead of LIST/ENTRY.

    Raises:
        UsageError: the text has no list, no slash or no id.
    """
    list_name, slash, name = entry.partition("/")
    if not (slash and list_name and name):
        raise UsageError(
            f"not of the form LIST/ENTRY: {printable(entry)}",
            hint="give the list and the id of the entry, such as baseline/d-1; to give the id of "
            f"a match, which is in brackets: {by_id}",
        )
    return list_name, name


def reason_option(**default: Any) -> Callable[[Any], Any]:
    """Return the option `--reason`, which is required if `default` has no default value."""
    # `default` is passed only if it has a value, because click would take the value None as a
    # default.
    required = not default
    return click.option(
        "--reason",
        metavar="TEXT",
        required=required,
        show_default=not required,
        help="The reason, which goes into the audit log.",
        callback=not_blank,
        **default,
    )


def run_alone(ctx: click.Context, command: click.Command, chosen: Mapping[str, Any]) -> None:
    """Run `command` with the options of its group if the group was called without a subcommand.

    Options before a subcommand are refused, because the subcommand would ignore these options.

    Raises:
        UsageError: options were given before a subcommand.
    """
    if ctx.invoked_subcommand is None:
        ctx.invoke(command, **chosen)
        return
    for name in ctx.params:
        if ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE:
            raise UsageError(
                f"options of `{ctx.info_name}` are before `{ctx.invoked_subcommand}`",
                hint=f"write the options after the subcommand: `{ctx.command_path} "
                f"{ctx.invoked_subcommand} …`",
            )


def refuse_empty(paths: Iterable[str]) -> None:
    """Refuse an empty path, often from an unset variable of a shell: it would mean `.`.

    Raises:
        UsageError: a path is empty.
    """
    if "" in paths:
        raise UsageError("a path is empty", hint="`.` is the current directory")


def refuse_lost_directory(paths: Iterable[str]) -> None:
    """Refuse relative paths if the working directory was removed.

    Raises:
        UsageError: a path is relative.
    """
    if not has_directory() and any(path != "-" and path[:1] != "/" for path in paths):
        raise lost_directory()


def lost_directory() -> UsageError:
    """Return the error for a relative path after the working directory was removed."""
    return UsageError(
        "the working directory was removed",
        hint="change to another directory, or give absolute paths",
    )


def has_directory() -> bool:
    """Return whether the working directory exists."""
    try:
        os.getcwd()  # noqa: PTH109 - only the error matters
    except FileNotFoundError:
        return False
    return True


def option_variables(parameter: click.Parameter) -> Sequence[str]:
    """Return the environment variables of an option; the first variable that is set is used."""
    names = parameter.envvar
    return () if names is None else (names,) if isinstance(names, str) else names


class _Anywhere(click.Option):
    """The option `-q` or `-v` after the name of a command, with the effect of the global option."""

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
    """Accept `-q` and `-v` after `command` and after all subcommands of `command`.

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
#: A pattern for a length of time; nine digits keep the number of seconds in the range of timers.
_DURATION = r"(?P<number>[0-9]{1,9})(?P<unit>[smhd]?)"


class _Duration(click.ParamType[Any]):
    """A length of time, for example `90`, `30m` or `1h`; the value is in seconds."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        found = re.fullmatch(_DURATION, str(value))
        if found is None or not int(found["number"]):
            self.fail(f"{value!r} is not a length of time, such as 90, 30m or 1h", param, ctx)
        return float(int(found["number"]) * _UNITS[found["unit"] or "s"])


DURATION = _Duration()


class _Time(click.ParamType[Any]):
    """A date, or a date and time, in ISO 8601 or in the form of hashclient's text output."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        text = str(value).strip()
        # The text output has the forms `2026-01-31 12:00 UTC` and `2026-01-31 13:00 +01:00`.
        spelt = re.sub(r" (?=[+-])", "", re.sub(r" UTC\Z", "Z", text))
        try:
            time = datetime.fromisoformat(spelt)
            return time.astimezone(UTC) if time.tzinfo else time.replace(tzinfo=UTC)
        except (ValueError, OverflowError):  # the time is outside of the range of years
            self.fail(f"{text!r} is not like 2026-01-31 or 2026-01-31T12:00Z", param, ctx)


TIME = _Time()


def gathered(name: str, kind: Any, *options: Callable[[Any], Any]) -> Callable[[Decorated], Any]:
    """Return a decorator that adds `options` and passes their values as one argument.

    The command receives one argument `name`: an instance of the named tuple `kind`, which has a
    field for each option.
    """

    def decorate(function: Decorated) -> Any:
        @functools.wraps(function)
        def with_one_value(*args: Any, **given: Any) -> Any:
            values = {field: given.pop(field) for field in kind._fields if field in given}
            return function(*args, **{name: kind(**values)}, **given)

        return together(*options)(with_one_value)

    return decorate


def declared_options(kind: Any, *names: str) -> Callable[[Decorated], Any]:
    """Return a decorator that passes options for the fields `names` of `kind` as `options`."""
    return gathered("options", kind, *(declared(kind, name) for name in names))


def declared(kind: Any, name: str) -> Callable[[Any], Any]:
    """Return the option for a field of `kind`, which declares its type, default and help.

    A field that is true by default gets a flag `--no-…`, which makes the field false.
    """
    _, about = get_args(_hints_of(kind)[name])
    default, flag = getattr(kind(), name), name.replace("_", "-")
    attributes: dict[str, Any] = {"help": about.help, "metavar": about.metavar}
    if about.range is not None:
        attributes["type"] = click.IntRange(*about.range)
    if default is True:
        return negative(flag, name, **attributes)
    if default is False:
        # `is_flag` is set only for flags, because click turns some other options into flags even if
        # `is_flag` is False.
        attributes["is_flag"] = True
    return click.option(f"--{flag}", multiple=default == (), **attributes)


#: The cached types of all fields of a class. Evaluating the types again for each option would take
#: 0.3 ms an option.
_hints_of = functools.cache(functools.partial(get_type_hints, include_extras=True))


def negative(flag: str, name: str, **attributes: Any) -> Callable[[Any], Any]:
    """Return the option `--no-FLAG`, which makes the argument `name` false."""
    return click.option(
        f"--no-{flag}", name, is_flag=True, callback=lambda _ctx, _option, no: not no, **attributes
    )


class OutcomeOptions(NamedTuple):
    """The options of `scan` and `lookup` that say how outcomes are written."""

    output_format: str
    output: Path | None
    show_all: bool
    show_digests: bool
    sort: bool = False


def outcome_options(
    *formats: str, digests: str = "computed digests", more: Sequence[Callable[[Any], Any]] = ()
) -> Callable[[Decorated], Any]:
    """Return a decorator that adds the options of `OutcomeOptions`, and the options `more`.

    `digests` is a part of the help text: it describes the digests that an outcome contains. A
    command gets the values of all these options as the argument `written`.
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


Complete = Callable[[click.Context, click.Parameter, str], list[str]]
#: The largest number of words that completion offers; nobody reads more words.
MOST_OFFERED = 200
_TOP_LEVEL = ("root", "targets", "snapshot", "timestamp")


def _offering(names: Callable[[click.Context], list[str]]) -> Complete:
    """Return click's completion function for the `names` that begin with the word at the cursor."""

    def complete(context: click.Context, _parameter: click.Parameter, word: str) -> list[str]:
        with contextlib.suppress(HashclientError, OSError):
            return [name for name in names(context) if name.startswith(word)][:MOST_OFFERED]
        return []

    return complete


def _state_dir(context: click.Context) -> Path:
    from hashclient.config.settings import resolve_settings

    given = context.find_root().params

    def path(name: str) -> Path | None:
        return user_path(given[name]) if given.get(name) else None

    return resolve_settings(
        state_dir=path("state_dir"),
        config_path=path("config_path"),
        seal_key_file=None,
        environ=os.environ,
        complete=False,
        config_must_exist=False,
        allow_shared=True,
    ).state_dir


def _matches(context: click.Context) -> list[str]:
    from hashclient.matches.store import Matches

    with Matches(_state_dir(context), create=False) as matches:
        return [match.id for match in matches.find()]


def _reports(context: click.Context) -> list[str]:
    from hashclient.system.layout import Layout

    return sorted(path.name for path in Layout(_state_dir(context)).reports.iterdir())


def _exceptions(context: click.Context) -> list[str]:
    from hashclient.decisions.rulings import load_book
    from hashclient.index.blinding import load_sealer
    from hashclient.system.layout import Layout

    directory = _state_dir(context)
    sealer = load_sealer(directory, None, os.environ)
    return [ruling.id for ruling in load_book(Layout(directory), sealer).rulings]


def _notices(context: click.Context) -> list[str]:
    from hashclient.notices.store import load_book, providers_with_notices
    from hashclient.system.layout import Layout

    layout = Layout(_state_dir(context))
    books = [load_book(layout, name) for name in providers_with_notices(layout)]
    return sorted(one.notice.id for book in books if book for one in book.notices)


def _lists(context: click.Context) -> list[str]:
    from hashclient.index.reader import list_folders
    from hashclient.system.layout import Layout

    return list_folders(Layout(_state_dir(context)).lists)


def _lists_of_repository(context: click.Context) -> list[str]:
    # If the value of an option is missing, click has not parsed the command line, so the directory
    # is taken from the unparsed arguments.
    given = context.params.get("directory") or next(iter(context.args), ".")
    lists = Path(given, "public", "targets", "lists")
    return sorted(path.name for path in lists.iterdir())


def _roles(context: click.Context) -> list[str]:
    with contextlib.suppress(OSError):
        return [*_TOP_LEVEL, *_lists_of_repository(context)]
    return list(_TOP_LEVEL)


MATCHES = _offering(_matches)
REPORTS = _offering(_reports)
EXCEPTIONS = _offering(_exceptions)
NOTICES = _offering(_notices)
LISTS = _offering(_lists)
LISTS_OF_REPOSITORY = _offering(_lists_of_repository)
ROLES = _offering(_roles)
