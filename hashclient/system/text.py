"""Text for people and records: printable paths, excerpts of untrusted text, and times."""

from __future__ import annotations

import binascii
import os
import re
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime

#: The longest part of a path that is written to a log, in characters. A path can be longer than the
#: 4,096 bytes that a system call accepts.
MAX_LOGGED_PATH_CHARS = 1 << 14

#: The longest part of an untrusted text that is repeated in a message, in characters.
MAX_EXCERPT_CHARS = 200

_SURROGATE = re.compile("[\ud800-\udfff]")


def printable(path: str | os.PathLike[str]) -> str:
    """Return `path`, which may contain any bytes, in a form that is safe to print on a terminal.

    Control characters and bytes that are not UTF-8 are shown as `\\xNN`, and backslashes are
    doubled.
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
            # A surrogate from U+DC80 to U+DCFF represents a byte that is not UTF-8. Other lone
            # surrogates, which untrusted text may contain, represent no byte.
            errors = "surrogateescape" if "\udc80" <= char <= "\udcff" else "surrogatepass"
            shown.extend(f"\\x{byte:02x}" for byte in char.encode("utf-8", errors))
    return "".join(shown)


def as_unicode(typed: str) -> str:
    """Return typed text without lone surrogates, which stand for bytes that are not UTF-8."""
    return _SURROGATE.sub("\ufffd", typed)


def is_unicode(path: str) -> bool:
    """Return whether the bytes of a path, decoded with surrogateescape, are UTF-8."""
    if path.isascii():
        return True
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True


def path_fields(path: str) -> dict[str, str]:
    """Return the JSON fields that represent `path` (decoded with surrogateescape) without loss.

    The field `path` is the path as text; `path_b64` is set only if the path is not UTF-8, and
    contains its bytes in base64.
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
    """Return the path, decoded with surrogateescape, from the two fields of `path_fields`.

    Raises:
        ValueError: `path_b64` is not base64.
    """
    if path_b64 is None:
        return path
    return os.fsdecode(binascii.a2b_base64(path_b64, strict_mode=True))


def log_path_fields(path: str) -> dict[str, str]:
    """Return the JSON fields of `path_fields` for a log; a very long path is cut.

    Paths are cut because a user can make paths of any length.
    """
    if len(path) <= MAX_LOGGED_PATH_CHARS:
        return path_fields(path)
    return {"path": os.fsencode(path[:MAX_LOGGED_PATH_CHARS]).decode(errors="replace") + "…"}


def excerpt(text: object) -> str:
    """Return the beginning of an untrusted text in a form that is safe on a terminal."""
    whole = str(text)
    return printable(whole[:MAX_EXCERPT_CHARS]) + ("…" if len(whole) > MAX_EXCERPT_CHARS else "")


def first_of(words: Sequence[str], count: int = 10) -> str:
    """Return the first `count` words of a list as text, with the number of the remaining words."""
    more = len(words) - count
    return ", ".join(words[:count]) + (f" and {more:,} more" if more > 0 else "")


def nearest(word: str, known: Iterable[str]) -> str | None:
    """Return the word in `known` that is most similar to the misspelt `word`, or None."""
    import difflib  # imported here because it is rarely needed

    found = difflib.get_close_matches(word[:MAX_EXCERPT_CHARS], list(known), 1, 0.7)
    return found[0] if found else None


def counted(count: int, noun: str, plural: str | None = None) -> str:
    """Return a number with a noun: `1 file`, `2,000 files`, `3 matches`."""
    ending = "es" if noun.endswith("ch") else "s"
    return f"{count:,} {noun if count == 1 else plural or noun + ending}"


def natural(text: str) -> list[tuple[int, str]]:
    """Return a key that sorts texts by the numbers in them: `web-2` comes before `web-10`."""
    # Numbers are compared by their count of digits and then as text, because `int` refuses a number
    # with very many digits.
    parts = (part.lstrip("0") if part.isdecimal() else part for part in re.split("([0-9]+)", text))
    return [(len(part) if number % 2 else 0, part) for number, part in enumerate(parts)]


class _Zone:
    """The time zone of times that are shown to people: UTC, or the local zone of this process."""

    is_local = False


def show_local_time(*, wanted: bool) -> None:
    """Set whether `for_people` uses local time, in this process and in processes forked later."""
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
    """Return a time in UTC; a time outside of Python's range is returned unchanged."""
    try:
        return time.astimezone(UTC)
    except OverflowError:
        return time
