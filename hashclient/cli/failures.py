"""Turns an error that ends the program into a message on stderr and an exit code.

For a wrong command line, click's message is replaced by a message that says which option, variable
or table has the wrong value, and which values are allowed. A message never repeats a secret key. A
message also never repeats an argument that is very long or has several lines, because such an
argument may be the content of a file that was given by mistake.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Sequence

import click
from click.core import ParameterSource

from hashclient.cli.options import has_directory, lost_directory, option_variables
from hashclient.cli.output import Terminated
from hashclient.core.errors import ExitCode, HashclientError, out_of_memory
from hashclient.system.secrets import holds_secret_key, secret_keys, without_secret_keys
from hashclient.system.text import MAX_EXCERPT_CHARS, printable

#: If a shell has split a secret key into words, messages hide the words of at least this many
#: characters, and show shorter words.
_SHORTEST_PART = 4
#: Click's message for a value that is not a number, or is out of range.
_NO_NUMBER = r"(?s)(?P<value>.*) is not (?:a valid (?:integer|float)(?: range)?|in the range .*)\."


def explain(
    error: Exception | KeyboardInterrupt | Terminated, words: Sequence[str] = ()
) -> tuple[ExitCode, str]:
    """Print on stderr the error that ends the program; return the exit code and the message."""
    match error:
        case click.ClickException():
            return ExitCode.USAGE, _show_click_error(error, words)
        case MemoryError():
            return explain(out_of_memory())
        case HashclientError():
            message = without_secret_keys(error.message)
            click.echo(f"hashclient: error: {message}", err=True)
            if hint := _hint_of(error.message, words) or error.hint:
                click.echo(f"hint: {without_secret_keys(hint)}", err=True)
            return error.exit_code, message
        case KeyboardInterrupt() | click.Abort():
            click.echo("hashclient: interrupted", err=True)
            return ExitCode.INTERRUPTED, "interrupted"
        case Terminated():
            click.echo("hashclient: terminated", err=True)
            return ExitCode.TERMINATED, "terminated"
        case FileNotFoundError() if not has_directory():
            return explain(lost_directory())
        case _:
            return ExitCode.BUG, _show_bug(error)


def _show_click_error(error: click.ClickException, words: Sequence[str]) -> str:
    message = _message_of(error, words)
    if isinstance(error, click.exceptions.NoArgsIsHelpError):
        error.show()  # click's message is the whole help text
        return message
    click.echo(f"hashclient: error: {message}", err=True)
    context = getattr(error, "ctx", None)
    command = context.command_path if context is not None else "hashclient"
    hint = f"see `{command} --help`"
    if isinstance(error, click.NoSuchOption) and context is not None and context.parent is not None:
        ours = {flag for option in context.find_root().command.params for flag in option.opts}
        if error.option_name in ours:
            rest = command.removeprefix("hashclient ")
            hint = f"put this option before the command: `hashclient {error.option_name} {rest} …`"
    click.echo(f"hint: {_hint_of(error.format_message(), words) or hint}", err=True)
    return message


def _show_bug(error: BaseException) -> str:
    message = f"internal error: {type(error).__name__}"
    click.echo(f"hashclient: {message}", err=True)
    if os.environ.get("HASHCLIENT_DEBUG"):
        import traceback

        traceback.print_exception(error)
    else:
        click.echo("hint: this is a bug; HASHCLIENT_DEBUG=1 shows where it happened", err=True)
    return message


def _message_of(error: click.ClickException, words: Sequence[str]) -> str:
    """Return the message for an error on the command line `words`."""
    given = list(words)
    text = error.format_message()
    hides_long = True
    if isinstance(error, click.BadParameter) and error.param is not None:
        hides_long = not isinstance(error.param.type, click.Path)  # long paths are shown
        reason = reason_of(error.message, error.param)
        variable = _variable(error)
        if variable is not None:
            given.append(os.environ.get(variable, ""))
            text = f"invalid value in environment variable {variable}: {reason}"
        elif reason != error.message:
            text = text.replace(error.message, reason)
    hidden = [*_odd_parts(given, hides_long=hides_long), *_secret_parts(given)]
    # Longer texts are hidden first, because a secret text may contain another secret text.
    for part in sorted(hidden, key=len, reverse=True):
        for shown in _forms(part):
            text = text.replace(shown, "…")
    text = without_secret_keys(text).rstrip(".")
    return f"{text[:1].lower()}{text[1:]}"


def reason_of(message: str, parameter: click.Parameter) -> str:
    """Return why the value of a `parameter` is not valid, from click's `message`."""
    kind = parameter.type
    if isinstance(kind, click.types.IntParamType | click.types.FloatParamType) and (
        found := re.fullmatch(_NO_NUMBER, message)
    ):
        return f"{found['value']} is not {_number_of(kind)}"
    return message


def _hint_of(text: str, words: Sequence[str]) -> str | None:
    """Return a hint if the message `text` contains a secret key that was typed; else None."""
    if any(shown in text for part in _secret_parts(words) for shown in _forms(part)):
        return (
            "a secret key must not stand on a command line, where others can read it; give the"
            " public key, or the name of the file"
        )
    return None


def _number_of(kind: click.ParamType[object]) -> str:
    """Return which numbers are allowed, for example `a whole number from 1 to 256`."""
    whole = "a whole number" if isinstance(kind, click.types.IntParamType) else "a number"
    if not isinstance(kind, click.IntRange | click.FloatRange):
        return whole
    if kind.min is None:
        return whole if kind.max is None else f"{whole} of at most {kind.max:,.10g}"
    if kind.max is None:
        return f"{whole} of at least {kind.min:,.10g}"
    if kind.min_open:
        return f"{whole} above {kind.min:,.10g}, of at most {kind.max:,.10g}"
    return f"{whole} from {kind.min:,.10g} to {kind.max:,.10g}"


def _variable(error: click.BadParameter) -> str | None:
    """Return the environment variable whose value caused the error; None if no variable did."""
    context, parameter = error.ctx, error.param
    if context is None or parameter is None or parameter.name is None:
        return None
    if context.get_parameter_source(parameter.name) is not ParameterSource.ENVIRONMENT:
        return None
    return next((name for name in option_variables(parameter) if os.environ.get(name)), None)


def _parts(words: Iterable[str]) -> Iterator[str]:
    """Yield the words, and the parts of each word before and after the first `=`."""
    for word in words:
        yield from (word, *word.partition("=")[::2])


def _odd_parts(words: Iterable[str], *, hides_long: bool) -> Iterator[str]:
    """Yield very long words and words of several lines, which may be the content of a file."""
    for part in _parts(words):
        if "\n" in part or (hides_long and len(part) > MAX_EXCERPT_CHARS):
            yield part


def _secret_parts(words: Sequence[str]) -> Iterator[str]:
    """Yield words that contain a secret key, and words into which a shell split a secret key."""
    yield from filter(holds_secret_key, _parts(words))
    for key in secret_keys(" ".join(word for word in words if not holds_secret_key(word))):
        yield from (word for word in key.split() if len(word) >= _SHORTEST_PART)


def _forms(part: str) -> tuple[str, ...]:
    """Return the forms in which click may show a part of a command line."""
    return part, repr(part)[1:-1], printable(part)
