"""The parts that every command uses: the resolved settings and the two output streams.

Data are printed on stdout, messages on stderr. `-q` suppresses all messages except errors and
warnings. A command gets the `App` of the run through `pass_app`. A command on many items uses
`Results`, and continues with the next item after a failure.
"""

from __future__ import annotations

import contextlib
import functools
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hashclient.cli.output import json_text
from hashclient.cli.outputfile import OutputFile
from hashclient.core.errors import AuditError, ConfigError, ExitCode, HashclientError, LockedError
from hashclient.system.secrets import without_secret_keys
from hashclient.system.text import path_fields, printable

if TYPE_CHECKING:
    from datetime import datetime

    from hashclient.config.settings import Settings
    from hashclient.quarantine.vault import Restored
    from hashclient.session import Session


#: The largest number of items of a list that a message shows; a last line has the number of the
#: remaining items.
MOST_SHOWN = 10


class App:
    """The settings, the session and the output streams of one run of hashclient."""

    def __init__(
        self,
        load_settings: Callable[[], Settings],
        verbosity: int,
        output: OutputFile | None = None,
        load_to_edit: Callable[[], Settings] | None = None,
    ) -> None:
        """Store the arguments; `load_settings` is called when a command first needs settings.

        A `verbosity` of -1 suppresses messages. `load_to_edit` loads the settings for a command
        that adds missing parts of config.toml.
        """
        self._load_settings = load_settings
        self._load_to_edit = load_to_edit or load_settings
        self.verbosity = verbosity
        #: Whether `--allow-shared` was given: the program then uses a configuration, keys and lists
        #: that other users may write to.
        self.allows_shared = False
        #: The file that `--output` names.
        self.output = output or OutputFile()
        #: The function that removes a progress bar from the screen before a text is printed.
        self.before_output: Callable[[], None] = lambda: None

    @property
    def settings(self) -> Settings:
        """The settings of this run of hashclient.

        Raises:
            ConfigError, StateError: see `session`.
        """
        return self.session.settings

    @property
    def loaded(self) -> Settings | None:
        """The settings, or None if the command has not used the settings."""
        return self.settings if "session" in vars(self) else None

    def refuse_shared(self, path: Path, what: str) -> None:
        """Refuse a file that influences a decision of the program, if other users may write to it.

        Raises:
            ConfigError: other users may write to the file, and `--allow-shared` was not given.
        """
        from hashclient.config.owners import refuse_shared

        if not self.allows_shared:
            refuse_shared(path, what)

    @functools.cached_property
    def session(self) -> Session:
        """The session of this run, which is made at the first use.

        Raises:
            ConfigError: config.toml is not valid.
            StateError: this version of hashclient cannot use the state directory.
        """
        return self._session_of(self._load_settings())

    @functools.cached_property
    def session_to_edit(self) -> Session:
        """The session of a command that edits config.toml; required parts may still be missing."""
        return self._session_of(self._load_to_edit())

    def _session_of(self, settings: Settings) -> Session:
        from hashclient.session import Session

        return Session(settings, now=self.now)

    @staticmethod
    def now() -> datetime:
        """Return the present time; commands pass this function as the clock to other rooms."""
        from hashclient.core.staleness import present_time

        return present_time()

    def out(self, text: str) -> None:
        """Print one line of data to stdout.

        Raises:
            OutputError: stdout cannot be written (`hashclient.cli.main` replaces stdout by a stream
                that raises this error).
        """
        self.before_output()
        sys.stdout.write(text + "\n")
        sys.stdout.flush()

    def show(
        self,
        output_format: str,
        document: object,
        text: str | Iterable[str],
        *,
        nothing: str = "",
        indent: int | None = None,
    ) -> None:
        """Print a result: `document` if the format is `json`, else the lines of `text`.

        If `text` has no lines, print the message `nothing` on stderr.

        Raises:
            OutputError: stdout cannot be written.
        """
        if output_format == "json":
            self.out(json_text(document, indent))
            return
        for line in [text] if isinstance(text, str) else text:
            self.out(line)
            nothing = ""
        if nothing:
            self.say(nothing)

    def say(self, text: str) -> None:
        """Print a message on stderr, unless `-q` was given."""
        if self.verbosity >= 0:
            self._talk(text)

    def debug(self, text: str) -> None:
        """Print a detail on stderr if `-v` was given."""
        if self.verbosity > 0:
            self._talk(text)

    def warn(self, text: str, hint: str | None = None) -> None:
        """Print a warning on stderr, even with `-q`; the run continues."""
        self._talk_of("warning", text, hint)

    def fail(self, text: str, hint: str | None = None) -> None:
        """Print an error on stderr, even with `-q`; the caller continues and sets the exit code."""
        self._talk_of("error", text, hint)

    def _talk_of(self, what: str, text: str, hint: str | None) -> None:
        self._talk(f"hashclient: {what}: {text}")
        if hint and self.verbosity >= 0:
            self._talk(f"hint: {hint}")

    def _talk(self, text: str) -> None:
        self.before_output()
        click.echo(without_secret_keys(text), err=True)

    @staticmethod
    def has_terminal() -> bool:
        """Return whether stderr is a terminal."""
        return sys.stderr.isatty()

    @staticmethod
    def has_colour() -> bool:
        """Return whether stdout is a terminal with colours, and NO_COLOR is not set."""
        return (
            sys.stdout.isatty()
            and not os.environ.get("NO_COLOR")
            and os.environ.get("TERM", "dumb") != "dumb"
        )

    def progress_wanted(self) -> bool:
        """Return whether a progress bar on stderr is visible and does not disturb messages."""
        return self.verbosity == 0 and sys.stderr.isatty() and os.environ.get("TERM") != "dumb"


def own_command(app: App, *words: str) -> list[str]:
    """Return the arguments that run the command `words` with the same state and configuration.

    Raises:
        ConfigError: config.toml is not valid.
    """
    settings = app.settings
    start = [sys.executable, "-P", "-m", "hashclient", "-q", "--state-dir", str(settings.state_dir)]
    start += ["--config", str(settings.config_path)]
    if settings.seal_key_file is not None:
        start += ["--seal-key-file", str(settings.seal_key_file)]
    return [*start, *words]


pass_app = click.make_pass_decorator(App)


def format_option(*choices: str, help: str | None = None) -> Callable[[Any], Any]:  # noqa: A002 - click's word
    """Return the `--format` option with `choices`; the first choice is the default."""
    return click.option(
        "--format",
        "output_format",
        type=click.Choice(choices),
        default=choices[0],
        show_default=True,
        help=help or "How to write the result.",
    )


def existing_path(**kwargs: Any) -> click.Path:
    """Return the type of an option whose value is the path of a file."""
    return click.Path(path_type=Path, **kwargs)


def load_numpy() -> None:
    """Import numpy at the start of a command that needs numpy in any case."""
    import numpy as np  # noqa: F401


#: Errors that stop a command on many items, because every other item would fail in the same way.
_FATAL = (AuditError, ConfigError, LockedError)


class Results:
    """Prints the results of items as lines or as one document, and stores the worst exit code."""

    def __init__(self, app: App, output_format: str, ids: Sequence[str] = ()) -> None:
        """Store the format (`text` or `json`), and the `ids` of the requested items."""
        self._app = app
        self._is_json = output_format == "json"
        self._is_single = len(ids) == 1
        self._documents: list[dict[str, Any]] = []
        self.code = ExitCode.OK

    @contextlib.contextmanager
    def item(self, item_id: str) -> Iterator[None]:
        """Catch and report a failure in the `with` block that processes one of several items.

        Raises:
            HashclientError: only this item was requested, or all other items would fail in the same
                way.
        """
        try:
            yield
        except _FATAL:
            raise
        except HashclientError as error:
            if self._is_single:
                raise
            self._app.warn(f"{printable(item_id)}: {error.message}", error.hint)
            self.count(error.exit_code)
            shown = {"id": item_id, "detail": error.message}
            hidden = {key: without_secret_keys(text) for key, text in shown.items()}
            self._documents.append({**hidden, "done": False})

    def put(
        self,
        item_id: str,
        detail: str,
        *,
        done: bool | None,
        path: str | None = None,
        attention: bool = False,
        **more: Any,
    ) -> None:
        """Print the result of one item; `attention` makes the exit code `ExitCode.INCOMPLETE`."""
        if attention:
            self.count(ExitCode.INCOMPLETE)
        where = {} if path is None else path_fields(path)
        document = {"id": item_id, **where, "done": done, "detail": detail, "attention": attention}
        shown = [item_id, *([] if path is None else [printable(path)]), detail]
        self.put_document("  ".join(shown), document | more)

    def put_document(self, line: str, document: dict[str, Any]) -> None:
        """Print one item: `line` in the format `text`, `document` in the format `json`."""
        self._documents.append(document)
        if not self._is_json:
            self._app.out(line)

    def count(self, code: ExitCode) -> None:
        """Make `code` the exit code of the command, unless an earlier exit code is worse."""
        self.code = max(code, self.code)

    def end(self, nothing: str) -> ExitCode:
        """Print the JSON document, or `nothing` if there are no items; return the exit code."""
        if self._is_json:
            self._app.out(json_text({"items": self._documents}))
        elif not self._documents:
            self._app.say(nothing)
        return self.code


def put_restored(
    results: Results, restored: Iterable[tuple[str, Restored | HashclientError]]
) -> None:
    """Print the result of each restored match, or its error."""
    for match_id, one in restored:
        with results.item(match_id):
            if isinstance(one, HashclientError):
                raise one
            without = ", ".join(one.missing)
            detail = f"restored without {without}" if without else "restored"
            results.put(match_id, detail, path=one.path, done=True, attention=bool(without))


def shortened(lines: Sequence[str], where: str) -> Iterator[str]:
    """Yield the first `lines`, and a last line that says how many lines are omitted.

    The last line contains `where`, which says where all lines can be seen.
    """
    yield from lines[:MOST_SHOWN]
    if (more := len(lines) - MOST_SHOWN) > 0:
        yield f"  and {more:,} more: {where}"
