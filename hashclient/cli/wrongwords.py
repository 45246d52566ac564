"""Messages about a wrong command line, in our words instead of click's.

A message says where a wrong value is from, and which values are right. It never repeats a secret
key; nor a word of several lines or of great length, as the content of a wrong file is.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence

import click
from click.core import ParameterSource

from hashclient.cli.defaults import option_variables
from hashclient.system.secrets import holds_secret_key, without_secret_keys
from hashclient.system.text import MAX_EXCERPT_CHARS, printable

#: What click says of a value that is no number, or no number of the range.
_NO_NUMBER = re.compile(
    r"(?P<value>.*) is not (?:a valid (?:integer|float)(?: range)?|in the range .*)\.", re.DOTALL
)


def message_of(error: click.ClickException, words: Sequence[str]) -> str:
    """Return the message of an error on a command line of these `words`."""
    given = list(words)
    text = error.format_message()
    if isinstance(error, click.BadParameter) and error.param is not None:
        reason = reason_of(error.message, error.param)
        variable = _variable(error)
        if variable is not None:
            given.append(os.environ.get(variable, ""))
            text = f"invalid value in environment variable {variable}: {reason}"
        elif reason != error.message:
            text = text.replace(error.message, reason)
    text = _without(text, given).rstrip(".")
    return f"{text[:1].lower()}{text[1:]}"


def reason_of(message: str, parameter: click.Parameter) -> str:
    """Return why a value is wrong, by click's message about a `parameter`."""
    kind = parameter.type
    if isinstance(kind, click.types.IntParamType | click.types.FloatParamType) and (
        found := _NO_NUMBER.fullmatch(message)
    ):
        return f"{found['value']} is not {_number_of(kind)}"
    return message


def hint_of(words: Iterable[str]) -> str | None:
    """Return a hint where one of the words is what nobody should type; else None."""
    if any(holds_secret_key(word) for word in words):
        return (
            "a secret key must not stand on a command line, where others can read it; give the"
            " public key, or the name of the file"
        )
    return None


def _number_of(kind: click.ParamType[object]) -> str:
    """Return which numbers are right, as `a whole number from 1 to 256`."""
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
    """Return the environment variable that the wrong value is from; None for another place."""
    context, parameter = error.ctx, error.param
    if context is None or parameter is None or parameter.name is None:
        return None
    if context.get_parameter_source(parameter.name) is not ParameterSource.ENVIRONMENT:
        return None
    by_argument = f"{context.auto_envvar_prefix}_{parameter.name.upper()}"
    names = option_variables(parameter)
    return next((name for name in names if os.environ.get(name)), by_argument)


def _without(text: str, words: Iterable[str]) -> str:
    """Return `text` without the words that must not be repeated, however click shows them."""
    for word in words:
        for part in (word, *word.partition("=")[::2]):
            if "\n" in part or len(part) > MAX_EXCERPT_CHARS or holds_secret_key(part):
                for shown in (part, repr(part)[1:-1], printable(part)):
                    text = text.replace(shown, "…")
    return without_secret_keys(text)
