"""The classes with which `kinds`, `unopened` and `fronts` declare kinds of containers.

Each row declares one kind in three parts: the marks by which files of the kind are recognised, and
how certain the marks are; the expander that opens the files; and how an archive of the kind is
found behind other bytes. `sniffing` compiles the rows to a quick test, `registry` creates the
expanders, and `meaning` decides which earlier records of a scan are still valid after a change of a
row. Therefore a new kind only needs a row, and a module with an expander if the kind is opened.
"""

from __future__ import annotations

import enum
from collections.abc import Callable

import msgspec

#: A value of `Mark.at`, which means that the mark may be anywhere in the first bytes.
ANYWHERE = -1 << 20


class Mark(msgspec.Struct, frozen=True):
    """Bytes by which a kind is recognised.

    `at` is the offset of the mark: from the beginning, or from the end if it is negative, or
    `ANYWHERE`. One of `literals` must be at the offset `at`. A mark at `ANYWHERE` has `may_be`
    instead of literals: a quick test, which gets a buffer and its used length. If the literals also
    occur in many files of other kinds, `pattern` is a regular expression that the beginning must
    match; `is_one` must check the literals as well. `differs` is the text of a Python expression
    for a quick test: it is true for most `data` that begin with the first two bytes of a literal
    and are not of the kind. `is_one` checks further conditions in the first KiB, or, if `reaches`
    is set, in the first `interface.ISO_HEAD_BYTES`; if the bytes are too short, `is_one` may raise
    `struct.error` or `IndexError`.
    """

    at: int
    literals: tuple[bytes, ...] = ()
    is_one: Callable[[bytes], bool] | None = None
    reaches: bool = False
    may_be: Callable[[bytes | bytearray, int], bool] | None = None
    pattern: bytes = b""
    differs: str = ""


class End(msgspec.Struct, frozen=True):
    """`last`: the last bytes of a file of a kind; `is_one`: a check of the last KiB of the file."""

    last: bytes
    is_one: Callable[[bytes], bool] | None = None


class Sure(enum.Enum):
    """How certainly the marks of an opened kind show the kind."""

    MARK = "its marks make sure"
    VERIFIED = "the method `sniff` of its expander makes sure, where containers are opened"
    GUESS = "so it does, and the kind gives way to any other one"


class Kind(msgspec.Struct, frozen=True, eq=False):
    """A kind of container, or a kind of other files that matters for opening containers.

    `expander` names the code that opens the kind, for example `tar:Tar`: a module of the package
    `containers`, and in this module a class, or a function that takes the kind's name and the
    passwords. `expander` is empty in two cases: if files of the kind are counted and not opened,
    and for a front, which is a file that is no container and may have an archive behind it.

    `version` must be increased when the rule of `is_one` or `sniff` changes: a scan then examines
    again the files that it remembers as no containers. `reads` must be increased when the expander
    reads other contents than before: a scan then opens containers of the kind again. Other changes
    of a row are noticed without a change of `version` or `reads`.

    An archive may end with the bytes of its last member, so the end of the file shows nothing about
    the archive. Therefore the end of a file is not examined if its beginning shows a kind with
    `hides_end`, or a text.

    `whole` returns whether a complete file with a mark of the kind can be of the kind. `in_tail` is
    searched for near the end of each file, and in more bytes if the file begins with a front; the
    method `ends` of the expander then decides. `ends` are compared with the last bytes of a file.
    `in_programs` is searched for after and in programs; an archive begins `in_programs_at` bytes
    before these bytes. The method `length` of the expander decides whether an archive begins at a
    mark, and returns the length of the archive.

    At most `most_members` members are taken from one container, even if the configuration allows
    more. With `has_readings`, members of the container are read in several ways, and no member is
    longer than the container.
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
