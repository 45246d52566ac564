"""The entry point: reads global options, finds the command, and turns errors into exit codes.

A module of a command is imported only when the command is run or listed, so that the program starts
fast.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import os
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

import click

from hashclient.cli.app import App
from hashclient.cli.defaults import (
    ENV_PREFIX,
    command_defaults,
    name_variables,
    unknown_variables,
)
from hashclient.cli.failures import explain
from hashclient.cli.options import add_verbosity
from hashclient.cli.output import (
    OutputError,
    Terminated,
    end_now,
    end_soon,
    ignore_signals,
    open_streams,
    raise_at_signals,
)
from hashclient.cli.outputfile import OutputFile
from hashclient.core.errors import ExitCode, HashclientError
from hashclient.core.version import __version__
from hashclient.system.files import user_path
from hashclient.system.process import (
    end_at_bad_pages,
    keep_memory_private,
    keep_others_from_writing,
)
from hashclient.system.text import nearest, printable, show_local_time

if TYPE_CHECKING:
    from pathlib import Path

    from hashclient.config.settings import Settings

#: The module of each command, in the order in which people use the commands. Each module contains a
#: click command with the name `command`.
COMMANDS = {
    "init": "hashclient.cli.init",
    "fetch": "hashclient.cli.fetch",
    "status": "hashclient.cli.status",
    "scan": "hashclient.cli.scan",
    "lookup": "hashclient.cli.lookup",
    "watch": "hashclient.cli.watch",
    "serve": "hashclient.cli.serve",
    "matches": "hashclient.cli.matches",
    "exceptions": "hashclient.cli.exceptions",
    "quarantine": "hashclient.cli.quarantine",
    "report": "hashclient.cli.report",
    "feedback": "hashclient.cli.feedback",
    "notices": "hashclient.cli.notices",
    "alerts": "hashclient.cli.alerts",
    "inventory": "hashclient.cli.inventory",
    "audit": "hashclient.cli.audit",
    "fleet": "hashclient.cli.fleet",
    "provider": "hashclient.cli.provider",
    "demo": "hashclient.cli.demo",
}

#: The key in click's `meta` of a run under which the name of the command, the command and its
#: arguments are stored.
_CALLED = "hashclient.called"
#: The key in click's `meta` of a run under which the function that ends logging to stderr is
#: stored.
_LOG = "hashclient.log"


def exit_code_table() -> str:
    """Return the table of exit codes as lines of text."""
    return "\n".join(f"  {code.value:>3}  {code.meaning}" for code in ExitCode)


class _Process:
    """The state of a run before its command is known, and the steps at the end of the run."""

    def __init__(
        self, output: OutputFile | None = None, before_command: Callable[[], None] = lambda: None
    ) -> None:
        self.output = output or OutputFile()
        self.before_command = before_command
        #: The App and the name of the command; set when the command is known.
        self.app: App | None = None
        self.name = ""

    def end(self, exit_code: int) -> None:
        """Close the output file; then send alerts, unless a signal has interrupted the run."""
        ignore_signals()
        self.output.close()
        if self.app is None or exit_code in {ExitCode.INTERRUPTED, ExitCode.TERMINATED}:
            return
        # A command that has not used the configuration sends no alerts.
        settings = self.app.loaded
        if settings is not None and settings.config.alerts.receivers:
            from hashclient.cli.alerts import after_run

            # The exit code of `fleet show` causes no alert, because it describes other machines.
            after_run(self.app, ExitCode.OK if self.name == "fleet" else exit_code)


class _LazyGroup(click.Group):
    """A group whose commands are imported when they are needed."""

    def __init__(self, *args: Any, **attributes: Any) -> None:
        super().__init__(*args, **attributes)
        self._loaded: set[click.Command] = set()

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        command = importlib.import_module(COMMANDS[name]).command
        assert isinstance(command, click.Command)
        if command not in self._loaded:
            self._loaded.add(command)
            name_variables(command, f"{ENV_PREFIX}_{name.upper()}")
            add_verbosity(command, _change_verbosity)
        return command

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        given = list(args)
        try:
            return super().parse_args(ctx, args)
        except click.UsageError:
            # The output file is prepared before the error is shown, so that the text about the
            # failure can be written into the output file.
            for number, word in enumerate(given):
                if (command := self.get_command(ctx, word)) is not None:
                    process = ctx.ensure_object(_Process)
                    process.before_command()
                    process.output.prepare(ctx, word, command, given[number + 1 :])
                    break
            raise

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if self.get_command(ctx, args[0]) is None and (meant := nearest(args[0], COMMANDS)):
            ctx.fail(f"no such command {args[0]!r}; did you mean {meant!r}?")
        name, command, rest = super().resolve_command(ctx, args)
        ctx.meta[_CALLED] = name, command, list(rest)
        return name, command, rest

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except click.UsageError as error:
            # An error in click's parser has no context, which names the command in the message.
            if error.ctx is None:
                name, command, _ = ctx.meta[_CALLED]
                error.ctx = click.Context(command, parent=ctx, info_name=name)
            raise

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Exit codes"):
            formatter.write(exit_code_table() + "\n")
        super().format_epilog(ctx, formatter)


def _command_defaults(app: App, name: str, command: click.Command) -> dict[str, dict[str, Any]]:
    """Return the default values in config.toml for the options of command `name`.

    Raises:
        ConfigError: a key is not the name of an option, a value does not fit its option, or the
            file is not valid.
    """
    table = app.settings.config.commands.get(name)
    if table is None:
        return {}
    where = printable(app.settings.config_path)
    return {name: command_defaults(table, name, command, where)}


def _warn_of_variables(ctx: click.Context, app: App, words: Sequence[str]) -> None:
    """Warn of environment variables that are probably misspelt variables of hashclient."""
    group = ctx.command
    assert isinstance(group, click.Group)
    unknown = list(
        unknown_variables(os.environ, group, COMMANDS, lambda name: group.get_command(ctx, name))
    )
    if not unknown:
        return
    # The configuration or `init --token-env` may name any variable as the place of a secret.
    mentioned = set(words) | {word.partition("=")[2] for word in words}
    # the command reports a broken configuration later, when the command needs the settings
    with contextlib.suppress(HashclientError):
        for provider in app.settings.config.providers.values():
            secrets = (provider.token_env, provider.oauth and provider.oauth.client_secret_env)
            mentioned |= {name for name in secrets if name}
        mentioned.add(app.settings.config.alerts.secret_env or "")
    for name, meant in unknown:
        if name not in mentioned:
            shown = printable(name)
            app.warn(f"environment variable is not known: {shown}; did you mean {meant}?")


_HELP = """Check files against signed hash lists from an authorised provider.

A provider signs lists of file signatures. hashclient fetches and verifies the lists, stores them
so that nobody can read them, and shows which of your files are on a list.

\b
  hashclient init URL --root ROOT.json --token-file FILE  once
  hashclient fetch                                        every hour, say
  hashclient scan /srv/files                              as often as you like

Every option can be set in the environment (HASHCLIENT_STATE_DIR, HASHCLIENT_SCAN_JOBS, …); options
of a command can also be set in config.toml. Flags outrank the environment, and the environment
outranks the file.
"""


@click.group(
    cls=_LazyGroup,
    help=_HELP,
    context_settings={
        "help_option_names": ["-h", "--help"],
        "max_content_width": 100,
    },
)
@click.option(
    "--state-dir",
    metavar="DIR",
    help="Where lists, trust and the audit log are kept. "
    "[default: $XDG_STATE_HOME/hashclient; for root /var/lib/hashclient]",
)
@click.option(
    "--config",
    "config_path",
    metavar="FILE",
    help="The configuration. [default: DIR/config.toml if --state-dir is given, else "
    "$XDG_CONFIG_HOME/hashclient/config.toml; for root /etc/hashclient/config.toml]",
)
@click.option(
    "--seal-key-file",
    metavar="FILE",
    help="File of the key that protects stored lists, if it is not in the state directory.",
)
@click.option(
    "--allow-shared",
    is_flag=True,
    help="Use a configuration, keys and a state directory that other users may write to.",
)
@click.option(
    "--local-time",
    is_flag=True,
    help="Show times in this machine's zone; output for programs is always in UTC.",
)
@click.option(
    "-v",
    "--verbose",
    count=True,
    help="Print more on stderr; -vv prints details. Works after the command, too.",
)
@click.option(
    "-q",
    "--quiet",
    is_flag=True,
    help="Print only errors and warnings on stderr. Works after the command, too.",
)
@click.version_option(__version__, prog_name="hashclient", message="%(prog)s %(version)s")
@click.pass_context
def cli(
    ctx: click.Context,
    state_dir: str | None,
    config_path: str | None,
    seal_key_file: str | None,
    allow_shared: bool,
    local_time: bool,
    verbose: int,
    quiet: bool,
) -> None:
    """Resolve the global options. Users see the text `_HELP` instead of this docstring."""
    process = ctx.ensure_object(_Process)
    # The process is protected only after the options were parsed, because `--version` needs no
    # protection.
    process.before_command()
    name, command, words = ctx.meta[_CALLED]
    # The output file is prepared before the first step that can fail, so that a failure is written
    # into the output file.
    process.output.prepare(ctx, name, command, words)

    show_local_time(wanted=local_time)

    def load(*, complete: bool = True) -> Settings:
        from hashclient.config.settings import resolve_settings

        return resolve_settings(
            state_dir=_path(state_dir),
            config_path=_path(config_path),
            seal_key_file=_path(seal_key_file),
            environ=os.environ,
            # config.toml may be missing when `init` is called, because `init` creates it.
            config_must_exist=ctx.invoked_subcommand != "init",
            complete=complete,
            allow_shared=allow_shared,
        )

    app = App(load, 0, process.output, functools.partial(load, complete=False))
    ctx.obj = app
    process.app, process.name = None if name in {"alerts", "init"} else app, name
    app.allows_shared = allow_shared
    _change_verbosity(app, -1 if quiet else verbose)
    # Help must work even if config.toml is not valid.
    if not {"-h", "--help"}.isdisjoint(words):
        return
    _warn_of_variables(ctx, app, words)
    from hashclient.config.settings import COMMAND_TABLES

    if name in COMMAND_TABLES:
        ctx.default_map = _command_defaults(ctx.obj, name, command)
        # config.toml may name the output file. The file is emptied only after config.toml was read,
        # because the output file may be config.toml itself.
        if ctx.default_map:
            process.output.prepare(ctx, name, command, words)


name_variables(cli, ENV_PREFIX)


def _change_verbosity(app: App, change: int) -> None:
    """Add `change` to the verbosity; -1 makes the run quiet, whatever other options say."""
    if app.verbosity < 0 or change < 0:
        app.verbosity = -1
        return
    app.verbosity += change
    if app.verbosity > 0:
        from hashclient.cli.verbose import show_log

        root = click.get_current_context().find_root()
        if (before := root.meta.pop(_LOG, None)) is not None:
            before()
        end = show_log(app.debug, details=app.verbosity > 1, process=os.getpid())
        root.meta[_LOG] = root.call_on_close(end)


def _path(text: str | None) -> Path | None:
    return None if not text else user_path(text)


def _protect_process() -> None:
    """Protect the memory and the new files of this process before a command reads a file."""
    keep_memory_private()
    keep_others_from_writing()
    end_at_bad_pages()


def main(argv: list[str] | None = None) -> NoReturn:
    """Run the program and exit with a code of `ExitCode`, even after an unexpected error."""
    # Numpy must not start a pool of BLAS threads, because hashclient does no linear algebra, and
    # the threads would cost time and memory and make forking unsafe. The variable has to be set
    # before numpy is imported.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    open_streams()
    code: int
    try:
        code = _run(argv, before_command=_protect_process, handle_signals=raise_at_signals)
    except (KeyboardInterrupt, Terminated) as error:
        # The signal came at the end of `_run`, which does not catch exceptions there.
        ignore_signals()
        code, _ = explain(error)
    end_soon(code)
    try:
        sys.stdout.flush()
    except OutputError as error:
        # Stdout cannot be written, for example because its reader has ended. The run ends with the
        # exit code of the OutputError, unless another exit code than 0 is set already.
        code = code or error.exit_code
    end_now(code)


def _run(
    argv: list[str] | None,
    before_command: Callable[[], None] = lambda: None,
    handle_signals: Callable[[], None] = lambda: None,
) -> int:
    """Run a command and return its exit code.

    `before_command` and `handle_signals` change the whole process, so tests leave them out. SIGINT
    and SIGTERM are ignored at the end, so that a late signal cannot change the exit code.
    """
    output = OutputFile()
    process = _Process(output, before_command)
    code: int = ExitCode.BUG
    try:
        # Until `handle_signals` is called, a signal ends the process at once. Afterwards, a signal
        # raises an exception.
        handle_signals()
        result = cli.main(
            args=argv,
            prog_name="hashclient",
            standalone_mode=False,
            obj=process,
        )
        code = int(result) if isinstance(result, int) else ExitCode.OK
    except click.exceptions.Exit as request:
        code = request.exit_code
    # All other exceptions are caught, because a bug must not end with an exit code that means a
    # verdict.
    except (Exception, KeyboardInterrupt, Terminated) as error:
        ignore_signals()
        code, message = explain(error, sys.argv[1:] if argv is None else argv)
        output.fail(code, message, App.now)
    finally:
        process.end(code)
    return code
