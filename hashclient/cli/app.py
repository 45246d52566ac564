"""The parts that every command shares: the resolved settings and the two output streams.

Stdout is for data, stderr for messages. `-q` silences messages other than errors and warnings.
Commands get the one `App` of a run through `pass_app`. `Results` is for commands on many items:
they go on after a failure.
"""

from __future__ import annotations

import contextlib
import functools
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hashclient.cli.output import json_text
from hashclient.cli.outputfile import OutputFile
from hashclient.core.errors import AuditError, ConfigError, ExitCode, HashclientError, LockedError
from hashclient.system.secrets import without_secret_keys
from hashclient.system.text import path_fields, printable

if TYPE_CHECKING:
    from hashclient.config.settings import Settings
    from hashclient.quarantine.vault import Restored
    from hashclient.session import Session


#: At most this many items of a long list are shown, and then the number of the other items.
MOST_SHOWN = 10


class App:
    """One run of the program."""

    def __init__(
        self,
        load_settings: Callable[[], Settings],
        verbosity: int,
        output: OutputFile | None = None,
        load_to_edit: Callable[[], Settings] | None = None,
    ) -> None:
        """`load_settings` is called when a command first needs settings; verbosity -1 is quiet.

        `load_to_edit` loads settings for a command that adds missing parts of config.toml.
        """
        self._load_settings = load_settings
        self._load_to_edit = load_to_edit or load_settings
        self.verbosity = verbosity
        #: Whether the program may use a configuration, keys or lists that other users may write to.
        self.allows_shared = False
        #: The file that `--output` names.
        self.output = output or OutputFile()
        #: Removes a progress bar from the screen; called before any other text is written.
        self.before_output: Callable[[], None] = lambda: None

    @property
    def settings(self) -> Settings:
        """The settings of the session.

        Raises:
            ConfigError, StateError: as for the session.
        """
        return self.session.settings

    @property
    def loaded(self) -> Settings | None:
        """The settings, if the command has used them."""
        return self.settings if "session" in vars(self) else None

    def refuse_shared(self, path: Path, what: str) -> None:
        """Refuse a named file that decides something, if other users may write to it.

        Raises:
            ConfigError: other users may write to it, and `--allow-shared` was not given.
        """
        from hashclient.config.owners import refuse_shared

        if not self.allows_shared:
            refuse_shared(path, what)

    @functools.cached_property
    def session(self) -> Session:
        """The session of this run, made on first use.

        Raises:
            ConfigError: the configuration is wrong.
            StateError: this version of hashclient cannot use the state directory.
        """
        return self._session_of(self._load_settings())

    @functools.cached_property
    def session_to_edit(self) -> Session:
        """The session for a command that completes config.toml: missing parts are no error."""
        return self._session_of(self._load_to_edit())

    def _session_of(self, settings: Settings) -> Session:
        from hashclient.session import Session

        return Session(settings, now=self.now)

    @staticmethod
    def now() -> datetime:
        """The clock that commands pass to the core."""
        return datetime.now(UTC)

    def out(self, text: str) -> None:
        """Print one line of data to stdout.

        Raises:
            OutputError: stdout cannot be written (`cli.main` makes stdout raise this error).
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
        """Print a result: `document` where the format is `json`, else the lines of `text`.

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
        """Print a warning on stderr, even with `-q`; the run goes on."""
        self._talk_of("warning", text, hint)

    def fail(self, text: str, hint: str | None = None) -> None:
        """Print an error on stderr, even with `-q`; the run goes on, and its exit code shows it."""
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
        """Return whether stdout is a terminal with colours, without NO_COLOR (no-color.org)."""
        return (
            sys.stdout.isatty()
            and not os.environ.get("NO_COLOR")
            and os.environ.get("TERM", "dumb") != "dumb"
        )

    def progress_wanted(self) -> bool:
        """Return whether a progress bar on stderr would be visible and not disturb other output."""
        return self.verbosity == 0 and sys.stderr.isatty() and os.environ.get("TERM") != "dumb"


def own_command(app: App, *words: str) -> list[str]:
    """Return the words that run another command quietly, with the same state and configuration.

    Raises:
        ConfigError: the configuration is wrong.
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
    """Return the type of an option that names a file by its path."""
    return click.Path(path_type=Path, **kwargs)


def load_numpy() -> None:
    """Load numpy early, for commands that need it anyway."""
    import numpy as np  # noqa: F401


#: Errors that stop a command, since every other item would fail in the same way.
_FATAL = (AuditError, ConfigError, LockedError)


class Results:
    """Prints the results of items, as lines or as one document; keeps the worst exit code."""

    def __init__(self, app: App, output_format: str, ids: Sequence[str] = ()) -> None:
        """`output_format` is `text` or `json`; `ids` are the requested items."""
        self._app = app
        self._is_json = output_format == "json"
        self._is_single = len(ids) == 1
        self._documents: list[dict[str, Any]] = []
        self.code = ExitCode.OK

    @contextlib.contextmanager
    def item(self, item_id: str) -> Iterator[None]:
        """Process one item in the block; report a failure, and go on if other items follow.

        Raises:
            HashclientError: only this item was requested, or other items would fail in the same
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
        """Print the result of one item; with `attention`, the command ends as incomplete."""
        if attention:
            self.count(ExitCode.INCOMPLETE)
        where = {} if path is None else path_fields(path)
        document = {"id": item_id, **where, "done": done, "detail": detail, "attention": attention}
        shown = [item_id, *([] if path is None else [printable(path)]), detail]
        self.put_document("  ".join(shown), document | more)

    def put_document(self, line: str, document: dict[str, Any]) -> None:
        """Print one item: `line` for people, `document` for programs."""
        self._documents.append(document)
        if not self._is_json:
            self._app.out(line)

    def count(self, code: ExitCode) -> None:
        """End the command with `code`, unless its code is already worse."""
        self.code = max(code, self.code)

    def end(self, nothing: str) -> ExitCode:
        """Write the document, or the message `nothing` without items; return the exit code."""
        if self._is_json:
            self._app.out(json_text({"items": self._documents}))
        elif not self._documents:
            self._app.say(nothing)
        return self.code


def put_restored(
    results: Results, restored: Iterable[tuple[str, Restored | HashclientError]]
) -> None:
    """Print the result of each restoration."""
    for match_id, one in restored:
        with results.item(match_id):
            if isinstance(one, HashclientError):
                raise one
            without = ", ".join(one.missing)
            detail = f"restored without {without}" if without else "restored"
            results.put(match_id, detail, path=one.path, done=True, attention=bool(without))


def shortened(lines: Sequence[str], where: str) -> Iterator[str]:
    """Yield the first lines of a list; then the number of the others, and `where` to see them."""
    yield from lines[:MOST_SHOWN]
    if (more := len(lines) - MOST_SHOWN) > 0:
        yield f"  and {more:,} more: {where}"
