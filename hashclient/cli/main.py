"""The entry point: global options, the commands, and the one place where errors become exit codes.

Commands are imported only when they are run or listed, so that a start costs what it uses.
"""

from __future__ import annotations

import importlib
import os
import signal
import sys
from types import FrameType
from typing import TYPE_CHECKING, Any, NoReturn

import click

from hashclient import __version__
from hashclient.cli.app import App, Terminated
from hashclient.errors import ConfigError, ExitCode, HashclientError

if TYPE_CHECKING:
    from pathlib import Path

    from hashclient.config import Settings

#: Command name to module; each module has a click command called `command`. In order of use.
COMMANDS = {
    "init": "hashclient.cli.init",
    "fetch": "hashclient.cli.fetch",
    "status": "hashclient.cli.status",
    "scan": "hashclient.cli.scan",
    "lookup": "hashclient.cli.lookup",
    "audit": "hashclient.cli.audit",
    "provider": "hashclient.cli.provider",
    "demo": "hashclient.cli.demo",
}


def exit_code_table() -> str:
    """Return the table of exit codes as lines of text, from the one enum."""
    return "\n".join(f"  {code.value:>3}  {code.meaning}" for code in ExitCode)


class _LazyGroup(click.Group):
    """A group whose commands are imported when they are asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        command = importlib.import_module(COMMANDS[name]).command
        assert isinstance(command, click.Command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name, command, rest = super().resolve_command(ctx, args)
        if name is not None and command is not None and not ctx.resilient_parsing:
            # Options of a command can have defaults in config.toml, but `--help` and commands
            # that take nothing from it must work with a broken one.
            if "--help" not in rest:
                ctx.default_map = _command_defaults(ctx, name, command)
        return name, command, rest

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Exit codes"):
            formatter.write(exit_code_table() + "\n")
        super().format_epilog(ctx, formatter)


def _command_defaults(
    ctx: click.Context, name: str, command: click.Command
) -> dict[str, dict[str, Any]]:
    """Return the defaults that config.toml gives for the options of command `name`."""
    if not isinstance(ctx.obj, App):
        return {}
    if name == "provider" or name == "demo":
        return {}
    table = ctx.obj.settings.config.commands.get(name)
    if table is None:
        return {}
    keys = {
        option.lstrip("-").replace("-", "_"): parameter.name
        for parameter in command.params
        if isinstance(parameter, click.Option)
        for option in parameter.opts
        if option.startswith("--") and parameter.name
    }
    defaults = {}
    for key, value in table.items():
        if key not in keys or isinstance(value, dict):
            raise ConfigError(
                f"configuration {ctx.obj.settings.config_path} is not valid:"
                f" unknown key `{key}` in [{name}]",
                hint=f"known keys: {', '.join(sorted(keys))}",
            )
        defaults[keys[key]] = value
    return {name: defaults}


_HELP = """Check files against signed hash lists from an authorised provider.

A provider signs lists of file signatures; hashclient fetches and verifies them, keeps
them sealed, and tells which files of yours are on them.

\b
  hashclient init URL --root ROOT.json --token-file TOKEN   once
  hashclient fetch                                          every hour, say
  hashclient scan /srv/files                                as often as you like

Every option can be set in the environment (HASHCLIENT_STATE_DIR, HASHCLIENT_SCAN_JOBS, …)
and in config.toml; flags outrank the environment, which outranks the file.
"""


@click.group(
    cls=_LazyGroup,
    help=_HELP,
    context_settings={
        "help_option_names": ["-h", "--help"],
        "auto_envvar_prefix": "HASHCLIENT",
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
    envvar="HASHCLIENT_CONFIG",
    help="The configuration. [default: DIR/config.toml if --state-dir is given, else "
    "$XDG_CONFIG_HOME/hashclient/config.toml; for root /etc/hashclient/config.toml]",
)
@click.option(
    "--seal-key-file",
    metavar="FILE",
    help="The key that seals lists at rest, when it is kept outside the state directory.",
)
@click.option("-v", "--verbose", count=True, help="Say more on stderr.")
@click.option("-q", "--quiet", is_flag=True, help="Say nothing on stderr but errors.")
@click.version_option(__version__, prog_name="hashclient", message="%(prog)s %(version)s")
@click.pass_context
def cli(
    ctx: click.Context,
    state_dir: str | None,
    config_path: str | None,
    seal_key_file: str | None,
    verbose: int,
    quiet: bool,
) -> None:
    """Resolve the global options once; the text users see is `_HELP`."""

    def load() -> Settings:
        from hashclient.config import resolve_settings

        return resolve_settings(
            state_dir=_path(state_dir),
            config_path=_path(config_path),
            seal_key_file=_path(seal_key_file),
            command_names=frozenset(COMMANDS),
            environ=os.environ,
        )

    ctx.obj = App(load, -1 if quiet else verbose)


def _path(text: str | None) -> Path | None:
    from pathlib import Path

    return None if not text else Path(text).expanduser()


def _on_sigterm(_signum: int, _frame: FrameType | None) -> NoReturn:
    raise Terminated


def main(argv: list[str] | None = None) -> NoReturn:
    """Run the program and exit with a code of `ExitCode`, whatever happens."""
    # One BLAS thread: nothing here does linear algebra, its pool only costs time and memory and
    # would make forking workers unsafe. It has to be said before numpy is first imported.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    signal.signal(signal.SIGTERM, _on_sigterm)
    # Names of files may be any bytes; they are written as they came or escaped, never a crash.
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    code = _run(argv)
    try:
        sys.stdout.flush()
    except OSError:
        # The reader has gone; what was found is in the exit code already, or it is this.
        code = code or ExitCode.STATE
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    sys.exit(int(code))


def _run(argv: list[str] | None) -> int:
    try:
        result = cli.main(args=argv, prog_name="hashclient", standalone_mode=False)
    except click.exceptions.Exit as request:
        return request.exit_code
    except click.ClickException as error:
        _show_click_error(error)
        return ExitCode.USAGE
    except HashclientError as error:
        show_error(error)
        return error.exit_code
    except (KeyboardInterrupt, click.Abort):
        click.echo("hashclient: interrupted", err=True)
        return ExitCode.INTERRUPTED
    except Terminated:
        click.echo("hashclient: terminated", err=True)
        return ExitCode.TERMINATED
    except BrokenPipeError:
        return ExitCode.STATE
    except Exception as error:  # the last resort: a bug must not look like a verdict
        _show_bug(error)
        return ExitCode.BUG
    return int(result) if isinstance(result, int) else ExitCode.OK


def show_error(error: HashclientError) -> None:
    """Write an error and its hint to stderr."""
    click.echo(f"hashclient: error: {error.message}", err=True)
    if error.hint:
        click.echo(f"hint: {error.hint}", err=True)


def _show_click_error(error: click.ClickException) -> None:
    message = error.format_message().rstrip(".")
    click.echo(f"hashclient: error: {message[:1].lower()}{message[1:]}", err=True)
    context = getattr(error, "ctx", None)
    if context is not None:
        click.echo(f"hint: see `{context.command_path} --help`", err=True)


def _show_bug(error: Exception) -> None:
    click.echo(f"hashclient: internal error: {type(error).__name__}", err=True)
    if os.environ.get("HASHCLIENT_DEBUG"):
        import traceback

        traceback.print_exception(error)
    else:
        click.echo("hint: this is a bug; HASHCLIENT_DEBUG=1 shows where it happened", err=True)
