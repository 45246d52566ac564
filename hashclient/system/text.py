"""Text for people and records: printable paths, excerpts of foreign texts, and times."""

from __future__ import annotations

import binascii
import os
import re
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime

#: How much of a path a log repeats. System calls accept 4,096 bytes; trees can be deeper.
MAX_LOGGED_PATH_CHARS = 1 << 14


#: How much a message repeats of a text that somebody else wrote.
MAX_EXCERPT_CHARS = 200


def printable(path: str | os.PathLike[str]) -> str:
    """Return `path` in a form that is safe on a terminal, whatever its bytes.

    Control characters and bytes that are not UTF-8 are shown as `\\xNN`, backslashes doubled.
    """
    text = os.fspath(path)
    if text.isprintable() and "\\" not in text:
        return text
    shown = []
    for char in text:
        if char == "\\":
            shown.append("\\\\")
        elif char.isprintable():
            shown.append(char)
        else:
            # Bytes that are not UTF-8 become the same bytes again; text from elsewhere may have
            # other lone surrogates, which represent no byte.
            errors = "surrogateescape" if "\udc80" <= char <= "\udcff" else "surrogatepass"
            shown.extend(f"\\x{byte:02x}" for byte in char.encode("utf-8", errors))
    return "".join(shown)


def as_unicode(typed: str) -> str:
    """Return a text of a person for records in JSON: no lone surrogates, as in bytes not UTF-8."""
    return typed.encode("utf-8", "surrogatepass").decode("utf-8", "replace")


def is_unicode(path: str) -> bool:
    """Return whether the bytes of a path are UTF-8, by its text with surrogateescape."""
    if path.isascii():
        return True
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True


def path_fields(path: str) -> dict[str, str]:
    """Return the fields that give `path` (decoded with surrogateescape) without loss, for JSON.

    `path` is the path as text; `path_b64` holds its bytes if they are not UTF-8.
    """
    if path.isascii():
        return {"path": path}
    raw = os.fsencode(path)
    try:
        return {"path": raw.decode()}
    except UnicodeDecodeError:
        encoded = binascii.b2a_base64(raw, newline=False).decode()
        return {"path": raw.decode(errors="replace"), "path_b64": encoded}


def path_of(path: str, path_b64: str | None) -> str:
    """Return the path from the two fields that `path_fields` made, decoded with surrogateescape.

    Raises:
        ValueError: `path_b64` is not base64.
    """
    if path_b64 is None:
        return path
    return os.fsdecode(binascii.a2b_base64(path_b64, strict_mode=True))


def log_path_fields(path: str) -> dict[str, str]:
    """Return the fields for `path`, for a place with limited space; a very long path is cut.

    Anybody who can make files can make paths of any length.
    """
    if len(path) <= MAX_LOGGED_PATH_CHARS:
        return path_fields(path)
    return {"path": os.fsencode(path[:MAX_LOGGED_PATH_CHARS]).decode(errors="replace") + "…"}


def excerpt(text: object) -> str:
    """Return the beginning of a text from elsewhere, for example a library, safe on a terminal."""
    whole = str(text)
    return printable(whole[:MAX_EXCERPT_CHARS]) + ("…" if len(whole) > MAX_EXCERPT_CHARS else "")


def first_of(words: Sequence[str], count: int = 10) -> str:
    """Return the first words of a list that may be long, and the number of the others."""
    more = len(words) - count
    return ", ".join(words[:count]) + (f" and {more:,} more" if more > 0 else "")


def nearest(word: str, known: Iterable[str]) -> str | None:
    """Return the word in `known` that `word` may misspell, or None."""
    import difflib  # imported only after a typing error

    found = difflib.get_close_matches(word[:MAX_EXCERPT_CHARS], list(known), 1, 0.7)
    return found[0] if found else None


def counted(count: int, noun: str, plural: str | None = None) -> str:
    """Return a number with the name of what it counts: `1 file`, `2,000 files`, `3 matches`."""
    ending = "es" if noun.endswith("ch") else "s"
    return f"{count:,} {noun if count == 1 else plural or noun + ending}"


def natural(text: str) -> list[tuple[int, str]]:
    """Return a key that sorts texts by the numbers in them: `web-2` comes before `web-10`."""
    # A number with more digits is the larger number, and may have more digits than `int` reads.
    parts = (part.lstrip("0") if part.isdecimal() else part for part in re.split("([0-9]+)", text))
    return [(len(part) if number % 2 else 0, part) for number, part in enumerate(parts)]


class _Zone:
    """The zone that people see: UTC, or the local zone of this process."""

    is_local = False


def show_local_time(*, wanted: bool) -> None:
    """Show people local times from now on, or UTC, in this process and its later children."""
    _Zone.is_local = wanted


def for_people(time: datetime) -> str:
    """Return `2026-11-26 01:28 UTC`, or in local time `2026-11-26 02:28 +01:00`."""
    if not _Zone.is_local:
        return f"{_in_utc(time):%Y-%m-%d %H:%M} UTC"
    try:
        return time.astimezone().isoformat(sep=" ", timespec="minutes")
    except (OverflowError, ValueError, OSError):  # years 1 and 9999 have no local time
        return f"{_in_utc(time):%Y-%m-%d %H:%M} UTC"


def for_programs(time: datetime) -> str:
    """Return a time in UTC, in the form of RFC 3339: `2026-11-26T01:28:03Z`."""
    return _in_utc(time).isoformat().replace("+00:00", "Z")


def _in_utc(time: datetime) -> datetime:
    """Return a time in UTC; times beyond Python's first and last year stay as they are."""
    try:
        return time.astimezone(UTC)
    except OverflowError:
        return time
