"""The declaration of a kind of container: the form of the rows in `kinds`, `unopened`, `fronts`.

A row contains the bytes by which files of the kind are recognised, and how certain these bytes are;
the expander that opens the files; and how an archive of the kind is found behind other bytes.
`sniffing` is compiled from the rows, `registry` makes the expanders, and `meaning` decides which
older records of a scan are still valid. So a new kind needs a module with an expander, and a row.
"""

from __future__ import annotations

import enum
from collections.abc import Callable

import msgspec

#: In place of an offset: the mark may be anywhere among the first bytes.
ANYWHERE = -1 << 20


class Mark(msgspec.Struct, frozen=True):
    """Bytes by which a kind is recognised.

    `at` is the offset from the beginning; from the end if it is negative; or `ANYWHERE`. One of
    `literals` is at that offset. Instead of literals, a mark at `ANYWHERE` has `may_be`, a quick
    test of a buffer and its used length. If many files have the literals, `pattern` is an
    expression that their beginning must match, and `is_one` checks the literals as well. `differs`
    is a quick test, an expression of Python: it is true for most `data` that have the first two
    bytes of a literal and do not match. `is_one` checks further conditions in the first KiB, or
    with `reaches` in the first `interface.ISO_HEAD_BYTES`; if these bytes are too short, it may
    raise `struct.error` or `IndexError`.
    """

    at: int
    literals: tuple[bytes, ...] = ()
    is_one: Callable[[bytes], bool] | None = None
    reaches: bool = False
    may_be: Callable[[bytes | bytearray, int], bool] | None = None
    pattern: bytes = b""
    differs: str = ""


class End(msgspec.Struct, frozen=True):
    """The last bytes of a file of a kind, and what else must be true of its last KiB."""

    last: bytes
    is_one: Callable[[bytes], bool] | None = None


class Sure(enum.Enum):
    """How far a mark of an opened kind can be trusted."""

    MARK = "its marks make sure"
    VERIFIED = "the method `sniff` of its expander makes sure, where containers are opened"
    GUESS = "so it does, and the kind gives way to any other one"


class Kind(msgspec.Struct, frozen=True, eq=False):
    """A kind of container, or of file that matters beside containers.

    `expander` names the code that opens the kind, for example `tar:Tar`: a module of this package,
    and in it a class, or a function of the kind's name and the passwords. The name is empty if
    files of the kind are counted and not opened, and for a front: a file that is no container, and
    that may have an archive behind it.

    `version` goes up when the rule changes by which `is_one` or `sniff` decides: files that scans
    remember as no containers are looked at again then. `reads` goes up when the expander reads
    other contents: containers are opened again. Other changes of a row are noticed without a new
    version.

    An archive ends like its last member. So if the beginning shows a kind that `hides_end`, the end
    shows nothing; the end of a text shows nothing either.

    `whole` returns whether a complete file that has a mark of this kind can be of this kind.
    `in_tail` is searched for near the end of any file, and in more bytes behind a front; the method
    `ends` of the expander makes sure. `ends` are exact. `in_programs` is searched for behind and in
    programs; it is `in_programs_at` bytes behind the beginning. The method `length` of the expander
    makes sure, and returns where the archive ends.

    From one container, no more than `most_members` are taken, whatever the configuration allows.
    With `has_readings`, members of the container are read in several ways, and no member is longer
    than the container.
    """

    name: str
    marks: tuple[Mark, ...] = ()
    expander: str = ""
    version: int = 1
    reads: int = 1
    sure: Sure = Sure.MARK
    hides_end: bool = True
    is_front: bool = False
    whole: Callable[[bytes], bool] | None = None
    in_tail: bytes = b""
    ends: tuple[End, ...] = ()
    in_programs: bytes = b""
    in_programs_at: int = 0
    most_members: int | None = None
    has_readings: bool = False
