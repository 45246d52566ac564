"""Finds the fault in a decoded `config.toml`, and says which key is wrong and what is right.

msgspec stops decoding at the first fault, with a message for programmers. When msgspec has found a
fault, this module searches the document for the fault, using the same types as msgspec, and makes a
sentence that an administrator can act upon. A message repeats a value only if one of a few known
words is expected, because any other value may be a secret in the wrong place.
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import msgspec

from hashclient.core.errors import ConfigError
from hashclient.system.text import excerpt, nearest, printable

#: The hint if no public key is configured for sealing isolated files.
HINT_RECIPIENTS = (
    "`hashclient quarantine keygen` makes a pair of keys on the officer's machine; `hashclient "
    "quarantine add-recipient` adds the public key here"
)

#: The keys that lead to a value; a number is an index in a list.
Place = tuple[str | int, ...]

#: For each type of TOML, three names: of an expected value, of several values (the plural), and of
#: a value that was found.
_WORDS: Mapping[type, tuple[str, str, str]] = {
    bool: ("true or false", "booleans", "a boolean"),
    int: ("a whole number", "whole numbers", "a whole number"),
    float: ("a number", "numbers", "a number with a fraction"),
    str: ("a text in quotes", "texts in quotes", "a text"),
    dict: ("a table", "tables", "a table"),
    list: ("a list", "lists", "a list"),
    dt.datetime: ("a date with a time", "dates with a time", "a date with a time"),
    dt.date: ("a date such as 2027-01-31", "dates", "a date"),
}


class Fault(msgspec.Struct, frozen=True):
    """A fault, described by a message without the name of the file, and a hint."""

    message: str
    hint: str | None = None

    def refusal(self, where: str) -> ConfigError:
        """Return the error for a configuration with this fault; `where` is the name of the file."""
        return ConfigError(
            f"configuration {where} is not valid: {self.message}",
            hint=self.hint or "docs/operations/configuration.md describes every key",
        )


def find_fault(document: Any, kind: type) -> Fault | None:
    """Return the first fault of a decoded `document` that does not fit the struct `kind`."""
    from msgspec import inspect

    return next(_faults(document, inspect.type_info(kind), ()), None)


def unknown_key(key: str, known: Sequence[str], where: str) -> Fault:
    """Return the fault that `key` is not among `known`, the keys that are allowed at `where`."""
    meant = nearest(key, known)
    hint = f"known keys: {', '.join(sorted(known))}"
    if meant:
        hint = f"did you mean {meant!r}? {hint}"
    else:
        hint += '; keys that only later versions know stand below [since."VERSION"]'
    return Fault(f"unknown key {printable(key)!r} {where}", hint)


def no_toml(text: str, error: Exception) -> Fault:
    """Return the fault that `text` is not TOML."""
    for number, line in enumerate(text.splitlines(), 1):
        # Users may append the output of `quarantine keygen` to the file by mistake.
        if line.startswith(("age1", "ssh-")):
            return Fault(
                excerpt(error),
                f"line {number} is a public key: remove the line, and give the key to `hashclient "
                "quarantine add-recipient`",
            )
    return Fault(excerpt(error))


def wrong_type(key: str, where: str, expected: str, value: Any) -> Fault:
    """Return the fault that the `value` of `key` at `where` does not have the `expected` type."""
    return Fault(
        f"wrong type of {printable(key)!r} {where}: expected {expected}, not {_word_of(value)}"
    )


def not_one_of(value: Any, allowed: Iterable[Any], key: str, where: str) -> Fault:
    """Return the fault that the `value` of `key` at `where` is not one of the `allowed` values."""
    words = sorted(str(word) for word in allowed)
    shown = repr(excerpt(value)) if isinstance(value, str) else _word_of(value)
    meant = nearest(value, words) if isinstance(value, str) else None
    listed = ", ".join(f'"{word}"' for word in words)
    return Fault(
        f"{shown} is no value of {printable(key)!r} {where}: it is one of {listed}",
        f"did you mean {meant!r}?" if meant else None,
    )


def in_table(place: Place) -> str:
    """Return a text that names a table as it is written in the file."""
    names, number = [], ""
    for step in place:
        if isinstance(step, int):
            number = f" number {step + 1}"
        else:
            names.append(printable(step))
    if not names:
        return "at the top"
    return f"in [[{'.'.join(names)}]]{number}" if number else f"in [{'.'.join(names)}]"


def _word_of(value: Any) -> str:
    for kind, (_, _, found) in _WORDS.items():
        if isinstance(value, kind):
            return found
    return "a time"


def _faults(value: Any, info: Any, place: Place) -> Iterator[Fault]:
    """Yield the faults of `value`; `info` describes the expected type."""
    from msgspec import inspect

    match info:
        case inspect.UnionType():
            yield from _faults_of_union(value, info, place)
        case inspect.StructType():
            yield from _faults_of_struct(value, info, place)
        case inspect.DictType():
            if not isinstance(value, dict):
                yield _wrong_type(value, "a table", place)
                return
            for key, inner in value.items():
                yield from _faults(inner, info.value_type, (*place, key))
        case inspect.VarTupleType() | inspect.ListType():
            if not isinstance(value, list):
                yield _wrong_type(value, f"a list of {_many(info.item_type)}", place)
                return
            for number, inner in enumerate(value):
                yield from _faults(inner, info.item_type, (*place, number))
            if info.max_length is not None and len(value) > info.max_length:
                yield _out_of_range(f"are more than {info.max_length}", place)
        case inspect.LiteralType():
            if not isinstance(value, str) or value not in info.values:
                yield _not_one_of(value, info.values, place)
        case _:
            kind = _python_type(info)
            if not _fits(value, kind):
                yield _wrong_type(value, _WORDS[kind][0], place)
            elif kind is str:
                yield from _faults_of_text(value, info, place)
            elif getattr(info, "ge", None) is not None and not info.ge <= value <= info.le:
                yield _out_of_range(f"is not from {info.ge:g} to {info.le:g}", place)
            elif getattr(info, "gt", None) is not None and not value > info.gt:
                yield _out_of_range(f"is not above {info.gt:g}", place)


def _faults_of_text(value: str, info: Any, place: Place) -> Iterator[Fault]:
    if len(value) < (info.min_length or 0):
        yield _out_of_range("is empty", place)
    elif info.pattern is not None and re.search(info.pattern, value) is None:
        form = info.pattern.removeprefix("^").removesuffix(r"\Z")
        yield _out_of_range(f"has not the form {form}", place)


def _fits(value: Any, kind: type) -> bool:
    """Return whether msgspec accepts a value of TOML for a simple type `kind`."""
    if isinstance(value, bool) or kind is bool:
        return isinstance(value, bool) and kind is bool
    if kind is dt.date:
        return _is_date(value)
    return isinstance(value, (int, float) if kind is float else kind)


def _is_date(value: Any) -> bool:
    """Return whether a value is a date without a time, in quotes or not."""
    if isinstance(value, str):
        try:
            return dt.date.fromisoformat(value).isoformat() == value
        except ValueError:
            return False
    return isinstance(value, dt.date) and not isinstance(value, dt.datetime)


def _faults_of_union(value: Any, info: Any, place: Place) -> Iterator[Fault]:
    from msgspec import inspect

    kinds = [kind for kind in info.types if not isinstance(kind, inspect.NoneType)]
    if len(kinds) == 1:
        yield from _faults(value, kinds[0], place)
        return
    # In a union of structs, the key `tag_field` says which struct a table is.
    if not isinstance(value, dict):
        yield _wrong_type(value, "a table", place)
        return
    by_tag = {kind.tag: kind for kind in kinds}
    key = kinds[0].tag_field
    if key not in value:
        yield Fault(
            f"{key!r} is missing {in_table(place)}", f"it is one of: {', '.join(sorted(by_tag))}"
        )
    elif not isinstance(value[key], str) or value[key] not in by_tag:
        yield _not_one_of(value[key], by_tag, (*place, key))
    else:
        yield from _faults_of_struct(value, by_tag[value[key]], place)


def _faults_of_struct(value: Any, info: Any, place: Place) -> Iterator[Fault]:
    if not isinstance(value, dict):
        yield _wrong_type(value, "a table", place)
        return
    fields = {field.encode_name: field for field in info.fields}
    known = [*fields, *([info.tag_field] if info.tag_field else [])]
    for key in value:
        if key not in known:
            yield unknown_key(key, known, in_table(place))
    for key, field in fields.items():
        if key in value:
            yield from _faults(value[key], field.type, (*place, key))
        elif field.required:
            yield Fault(f"{key!r} is missing {in_table(place)}")


def _wrong_type(value: Any, expected: str, place: Place) -> Fault:
    key, table = _split(place)
    return wrong_type(key, in_table(table), expected, value)


def _out_of_range(how: str, place: Place) -> Fault:
    key, table = _split(place)
    return Fault(f"{key!r} {in_table(table)} {how}")


def _not_one_of(value: Any, allowed: Iterable[Any], place: Place) -> Fault:
    key, table = _split(place)
    return not_one_of(value, allowed, key, in_table(table))


def _split(place: Place) -> tuple[str, Place]:
    """Return the key of a value, and the table that contains the key."""
    *above, last = place
    while isinstance(last, int) and above:  # an item of a list belongs to the key of the list
        *above, last = above
    return str(last), tuple(above)


def _many(info: Any) -> str:
    from msgspec import inspect

    match info:
        case inspect.LiteralType():
            return _WORDS[str][1]
        case inspect.StructType() | inspect.UnionType() | inspect.DictType():
            return _WORDS[dict][1]
    return _WORDS[_python_type(info)][1]


def _python_type(info: Any) -> type:
    from msgspec import inspect

    kinds: tuple[tuple[type, type], ...] = (
        (inspect.BoolType, bool),
        (inspect.IntType, int),
        (inspect.FloatType, float),
        (inspect.StrType, str),
        (inspect.DateType, dt.date),
    )
    for kind, python_type in kinds:
        if isinstance(info, kind):
            return python_type
    raise AssertionError(info)
