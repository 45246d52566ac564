"""The classes of the rows that declare kinds of containers in `kinds`, `unopened` and `fronts`.

Each row declares one kind in three parts. The first part is the marks (magic bytes) by which files
of the kind are recognised, and how certain the marks are. The second part is the expander that
opens the files. The third part says how an archive of the kind is found behind other bytes.
`sniffing` compiles the rows to a quick test, and `registry` creates the expanders. After a change
of a row, `meaning` decides which results of earlier scans are still valid. Therefore a new kind
only needs a row and, if the kind is opened, a module with an expander.
"""

from __future__ import annotations

import enum
from collections.abc import Callable

import msgspec

#: A value of `Mark.at` for a mark that may be at any offset within the first bytes.
ANYWHERE = -1 << 20


class Mark(msgspec.Struct, frozen=True):
    """Magic bytes, by which a kind of files is recognised.

    `at` is the offset of the mark in the file: from the beginning, or from the end if it is
    negative, or `ANYWHERE`. One of `literals` must be at the offset `at`. A mark at `ANYWHERE` has
    no literals, but `may_be`: a quick test, which is called with a buffer and the length of the
    file in the buffer. If the literals also occur in many files of other kinds, `pattern` is a
    regular expression that the beginning of the file must match; then `is_one` must check the
    literals as well. `differs` is the text of a Python expression, which must be false for files of
    the kind, and should be true for most other files that have the first two bytes of a literal.
    `is_one` checks further conditions in the first KiB, or, if `reaches` is set, in the first
    `interface.ISO_HEAD_BYTES`; if the bytes are too short, `is_one` may raise `struct.error` or
    `IndexError`.
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
    """How reliably the marks of an opened kind identify the kind."""

    MARK = "its marks make sure"
    VERIFIED = "the method `sniff` of its expander makes sure, where containers are opened"
    GUESS = "so it does, and the kind gives way to any other one"


class Kind(msgspec.Struct, frozen=True, eq=False):
    """A kind of container, or of other files that may have an archive behind them.

    `expander` names the code that opens the kind, for example `tar:Tar`: a module of the package
    `containers`, and in this module a class, or a function that takes the kind's name and the
    passwords. `expander` is empty in two cases: if files of the kind are counted and not opened,
    and for a front, which is a file that is no container and may have an archive behind it.

    `version` must be increased when the rule of `is_one` or `sniff` changes, or when the expander
    reads other contents than before. A scan then opens containers again, and examines again the
    files that it remembers as no containers: a file of the kind is one of them if no member was
    found in it. For other changes of a row, `version` stays unchanged.

    The last bytes of an archive may be the last bytes of its last member, so they do not show the
    kind of the archive. Therefore the end of a file is not examined if the beginning of the file
    shows a kind with `hides_end`, or a text.

    `whole` is called with the content of a complete file that has a mark of the kind; it returns
    False if the file cannot be of the kind. `in_tail`: bytes that are searched near the end of each
    file, and in more last bytes of a front. If the bytes are found, the method `ends` of the
    expander decides. `ends` are compared with the last bytes of a file. `in_programs`: bytes that
    are searched in and after programs; an archive begins `in_programs_at` bytes before them. The
    method `length` of the expander decides whether an archive begins at a mark, and returns the
    length of the archive.

    At most `most_members` members are taken from one container, even if the configuration allows
    more. With `has_readings`, members of the container are read in several ways, and no member is
    longer than the container.
    """

    name: str
    marks: tuple[Mark, ...] = ()
    expander: str = ""
    version: int = 1
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
