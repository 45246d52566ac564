"""Names of file formats with a version, for example `hashclient-index/1`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec

from hashclient.core.errors import StateError, VerificationError
from hashclient.system.text import excerpt, printable


def is_newer(format_: str, known: str) -> bool:
    """Return whether `format_` is a later version of the format `known`."""
    name, _, version = format_.rpartition("/")
    known_name, _, known_version = known.rpartition("/")
    digits = version.isascii() and version.isdecimal() and len(version) <= len("999999999")
    return name == known_name and digits and int(version) > int(known_version)


def format_of(document: bytes) -> str:
    """Return the field `format` of a JSON object; empty if the field is missing."""
    try:
        return msgspec.json.decode(document, type=_Any).format
    except (ValueError, RecursionError):
        return ""


class _Any(msgspec.Struct, frozen=True):
    format: str = ""


def older(path: Path, version: str, then: str = "") -> StateError:
    """Return the error for a file in a format from before the first release, which cannot be read.

    `then` is a text for the hint that says what to do after the file was moved away.
    """
    return StateError(
        f"written before the first release, in the format {version}, which is not read: "
        f"{printable(path)}",
        hint=f"move it away to begin a new one{then}; nothing was changed",
    )


def newer(path: Path) -> StateError:
    """Return the error for a file that a later version of this program wrote."""
    return StateError(
        f"a newer hashclient has written this file: {printable(path)}",
        hint="use that version; nothing was changed",
    )


def newer_or(damaged: StateError, path: Path, document: bytes, known: str) -> StateError:
    """Return the error for a file that cannot be decoded: `newer` or, if it is damaged, `damaged`.

    A later version of the format `known` may have other fields, so it must not be called damaged.
    """
    return newer(path) if is_newer(format_of(document), known) else damaged


def require_format(
    document: object, known: str, what: str, shown: Callable[[object], str] = excerpt
) -> None:
    """Check the format of a provider's document; call this first, as other formats have other keys.

    `what` names the document in the message. `shown` returns the format as the message shows it.

    Raises:
        VerificationError: the document has another format than `known`.
        ValueError: the document has no format.
    """
    format_ = msgspec.convert(document, _Named).format
    if format_ != known:
        raise VerificationError(
            f"{what} has format {shown(format_)}, this client reads {known}",
            hint="a newer hashclient may be needed",
        )


class _Named(msgspec.Struct, frozen=True):
    format: str
