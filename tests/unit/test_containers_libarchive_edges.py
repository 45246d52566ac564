"""The result for each answer that libarchive can give: a scripted library replaces the real one.

The real library gives most of these answers only for archives that nobody can make on purpose.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

import pytest

from hashclient.containers import libarchive
from hashclient.containers.interface import NotReadError, Unlisted, Why
from hashclient.containers.libarchive import LINK, Filtered, Libarchive
from tests.opened import Once, Whole

EOF, OK, RETRY, WARN, FAILED, FATAL = 1, 0, -10, -20, -25, -30
REGULAR, DIRECTORY, PIPE = 0o100000, 0o040000, 0o010000


@dataclass
class Entry:
    """An entry of the scripted archive."""

    name: bytes | None = b"a"
    utf8: bytes | None = None
    kind: int = REGULAR
    size: int | None = None
    target: bytes | None = None
    encrypted: int = 0
    status: int = OK
    said: bytes | None = None
    consumed: int = 0
    #: The blocks of the content, and the answer of the library after the last block.
    blocks: Sequence[bytes] = (b"content",)
    end: int = EOF


@dataclass
class Script:
    """The functions of libarchive that the program calls."""

    entries: Sequence[Entry | int] = ()
    said: bytes | None = None
    has_encrypted: int = 0
    is_supported: int = OK
    opens: int = OK
    takes_options: int = OK
    is_closed: bool = False
    options: bytes | None = None
    passwords: list[bytes] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._coming = iter(self.entries)
        self._entry = Entry()
        self._blocks: Iterator[bytes] = iter(())
        self._kept: Any = None

    def archive_read_new(self) -> int:
        return 1

    def archive_read_free(self, _: int) -> int:
        self.is_closed = True
        return OK

    def archive_read_set_options(self, _: int, options: bytes) -> int:
        self.options = options
        return self.takes_options

    def archive_read_add_passphrase(self, _: int, password: bytes) -> int:
        self.passwords.append(password)
        return OK

    def archive_read_open1(self, _: int) -> int:
        return self.opens

    def archive_read_next_header(self, _: int, entry: Any) -> int:
        coming = next(self._coming, EOF)
        if isinstance(coming, int):
            entry._obj.value = None
            return coming
        self._entry, self._blocks = coming, iter(coming.blocks)
        self.said = coming.said
        entry._obj.value = 7
        return coming.status

    def archive_read_data_block(self, _: int, block: Any, count: Any, _offset: Any) -> int:
        content = next(self._blocks, None)
        if content is None:
            return self._entry.end
        self._kept = ctypes.create_string_buffer(content)
        block._obj.value, count._obj.value = ctypes.addressof(self._kept), len(content)
        return OK

    def archive_read_has_encrypted_entries(self, _: int) -> int:
        return self.has_encrypted

    def archive_error_string(self, _: int) -> bytes | None:
        return self.said

    def archive_entry_pathname(self, _: int) -> bytes | None:
        return self._entry.name

    def archive_entry_pathname_utf8(self, _: int) -> bytes | None:
        return self._entry.utf8

    def archive_entry_symlink(self, _: int) -> bytes | None:
        return self._entry.target

    def archive_filter_bytes(self, _: int, which: int) -> int:
        assert which == -1
        return self._entry.consumed

    def archive_entry_filetype(self, _: int) -> int:
        return self._entry.kind

    def archive_entry_size(self, _: int) -> int:
        return self._entry.size or 0

    def archive_entry_size_is_set(self, _: int) -> int:
        return self._entry.size is not None

    def archive_entry_is_encrypted(self, _: int) -> int:
        return self._entry.encrypted

    def __getattr__(self, name: str) -> Any:
        if name.startswith("archive_read_support_") and not name.endswith("_strange"):
            return mock.Mock(return_value=self.is_supported)
        if name.startswith("archive_read_set_"):
            return lambda *_: OK
        raise AttributeError(name)


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> Iterator[Script]:
    """A script that a test fills; the fixture checks that every opened archive is closed."""
    script = Script()
    monkeypatch.setattr(libarchive, "_LIBRARY", script)
    before = dict(libarchive._OPEN)
    yield script
    assert before == libarchive._OPEN


def told(script: Script, *entries: Entry | int, **how: Any) -> list[Any]:
    """Return for each entry its name and content, or its name, the reason and the error's text."""
    script.entries = entries
    script.__post_init__()
    only_encrypted = how.pop("only_encrypted", False)
    reader = Libarchive("x", seeks=True, **how)
    data, out = Whole(b"bytes of an archive"), list[Any]()
    for found in reader.encrypted(data) if only_encrypted else reader.members(data):
        if isinstance(found, Unlisted):
            out.append((found.name, found.why, found.detail))
            continue
        for member in found:
            out.append((member.name, b"".join(member.chunks())))
    assert script.is_closed
    return out


PLAIN = (b"a", b"content")


@pytest.mark.parametrize(
    ("entry", "says"),
    [
        (Entry(), [PLAIN]),
        (Entry(name=None, utf8=b"u"), [(b"u", b"content")]),
        (Entry(name=None), [(b"", b"content")]),
        (Entry(name=b"", utf8=b"u"), [(b"", b"content")]),
        (Entry(size=7), [PLAIN]),
        (Entry(size=6), [PLAIN]),
        (Entry(size=0, blocks=()), [(b"a", b"")]),
        (Entry(blocks=(b"con", b"", b"tent")), [PLAIN]),
        # Entries that are no regular files; some of them have content.
        (Entry(kind=DIRECTORY, size=9), []),
        (Entry(kind=PIPE), []),
        (Entry(kind=PIPE, size=0), []),
        (Entry(kind=PIPE, size=7), [PLAIN]),
        (Entry(kind=0), [PLAIN]),
        (Entry(kind=0, size=0), []),
        (Entry(kind=0, size=7), [PLAIN]),
        # The target of a link counts as content if it is longer than any valid path.
        (Entry(kind=LINK, size=5, target=b"t" * 4095), []),
        (Entry(kind=LINK, target=b"t" * 4096), [(b"a", b"t" * 4096)]),
        (Entry(kind=LINK), []),
        (Entry(target=b"t" * 5000), [PLAIN]),
        # Warnings of libarchive.
        (Entry(status=WARN), [PLAIN]),
        (Entry(status=WARN, said=b"Pathname cannot be converted."), [PLAIN]),
        (
            Entry(status=WARN, said=b"Some data is Skipped"),
            [(b"", Why.DAMAGED, "some data is skipped"), PLAIN],
        ),
        (Entry(status=WARN, said=b"skipped: cannot allocate memory"), [PLAIN]),
        # An entry that fails is reported by its name, and the next entries are read.
        (Entry(status=FAILED), [(b"a", Why.DAMAGED, "it cannot be read")]),
        (Entry(status=FAILED, said=b"Unsupported "), [(b"a", Why.UNSUPPORTED, "unsupported")]),
        (Entry(status=FAILED, said=b"Unknown codec"), [(b"a", Why.UNSUPPORTED, "unknown codec")]),
        (
            Entry(status=FAILED, said=b"not implemented"),
            [(b"a", Why.UNSUPPORTED, "not implemented")],
        ),
        (
            Entry(status=FAILED, said=b"not supported"),
            [(b"a", Why.UNSUPPORTED, "not supported")],
        ),
        (Entry(status=FAILED, said=b"Encrypted"), [(b"a", Why.ENCRYPTED, "encrypted")]),
        (Entry(status=FAILED, said=b"a Passphrase"), [(b"a", Why.ENCRYPTED, "a passphrase")]),
        (Entry(status=FAILED, said=b"password\xff"), [(b"a", Why.ENCRYPTED, "password\ufffd")]),
        (Entry(encrypted=1), [(b"a", Why.ENCRYPTED, "encrypted")]),
        (Entry(encrypted=-1), [PLAIN]),
    ],
)
def test_an_entry_is_a_member_or_named_or_nothing(
    library: Script, entry: Entry, says: list[Any]
) -> None:
    assert told(library, entry, Entry(b"next")) == [*says, (b"next", b"content")]


def test_with_passwords_an_encrypted_member_is_read_and_others_can_be_left_out(
    library: Script,
) -> None:
    entries = (Entry(b"a"), Entry(b"b", encrypted=1), Entry(b"c", encrypted=-1))
    assert told(library, *entries, passwords=(b"p", b"q")) == [
        (name, b"content") for name in (b"a", b"b", b"c")
    ]
    assert library.passwords == [b"p", b"q"]
    assert told(library, *entries, passwords=(b"p",), only_encrypted=True) == [(b"b", b"content")]


@pytest.mark.parametrize(
    ("entry", "why", "text"),
    [
        (Entry(size=8), Why.DAMAGED, "ends after 7 of 8 bytes"),
        (Entry(size=2_000, blocks=(b"a" * 999, b"b" * 1)), Why.DAMAGED, "after 1,000 of 2,000"),
        (Entry(end=WARN, said=b"bad checksum"), Why.DAMAGED, "bad checksum"),
        (Entry(end=FAILED), Why.DAMAGED, "it cannot be read"),
        (Entry(end=FATAL, said=b"Unsupported method."), Why.UNSUPPORTED, "unsupported method"),
        (Entry(end=RETRY), Why.DAMAGED, "it cannot be read"),
    ],
)
def test_a_member_that_is_not_whole_is_unread(
    library: Script, entry: Entry, why: Why, text: str
) -> None:
    with pytest.raises(NotReadError, match=text) as caught:
        told(library, entry)
    assert caught.value.why is why


@pytest.mark.parametrize("status", [FATAL, RETRY, FAILED, 2])
def test_an_answer_without_an_entry_ends_the_archive_with_its_reason(
    library: Script, status: int
) -> None:
    library.said = b"Truncated."
    with pytest.raises(NotReadError, match=r"^truncated$") as caught:
        told(library, status)
    assert caught.value.why is Why.DAMAGED and library.is_closed


@pytest.mark.parametrize("status", [FATAL, RETRY])
def test_an_entry_that_is_not_known_to_be_right_ends_the_archive(
    library: Script, status: int
) -> None:
    with pytest.raises(NotReadError):
        told(library, Entry(status=status))


@pytest.mark.parametrize("text", [b"Out of memory", b"Can't allocate data"])
@pytest.mark.parametrize("entry", [Entry(status=FAILED), Entry(end=FATAL)])
def test_a_lack_of_memory_is_none_of_the_archive(
    library: Script, entry: Entry, text: bytes
) -> None:
    entry.said = text
    with pytest.raises(MemoryError):
        told(library, entry)


@pytest.mark.parametrize(("step", "has_end"), [(0, True), (1, False)])
def test_entries_that_fail_and_read_nothing_come_to_an_end(
    library: Script, monkeypatch: pytest.MonkeyPatch, step: int, *, has_end: bool
) -> None:
    monkeypatch.setattr(libarchive, "_MOST_FAILURES", 3)
    failed = [Entry(status=FAILED, consumed=9 + at * step) for at in range(6)]
    assert len(told(library, *failed[:4])) == 4
    if has_end:
        with pytest.raises(NotReadError):
            told(library, *failed[:5])
    else:
        assert len(told(library, *failed)) == 6


def test_that_members_are_encrypted_is_the_reason_unless_nothing_is_open(library: Script) -> None:
    library.has_encrypted = 1
    with pytest.raises(NotReadError) as caught:
        told(library, FATAL)
    assert caught.value.why is Why.ENCRYPTED
    library.opens = FATAL
    with pytest.raises(NotReadError) as caught:
        told(library)
    assert caught.value.why is Why.DAMAGED
    library.has_encrypted, library.opens = -1, OK
    with pytest.raises(NotReadError) as caught:
        told(library, FATAL)
    assert caught.value.why is Why.DAMAGED


@pytest.mark.parametrize("status", [WARN, FATAL])
def test_a_format_that_the_library_does_not_read_is_missing(library: Script, status: int) -> None:
    library.is_supported = status
    with pytest.raises(NotReadError, match="this libarchive does not read x") as caught:
        told(library)
    assert caught.value.why is Why.MISSING and library.is_closed
    library.is_supported = OK
    with pytest.raises(NotReadError, match="this libarchive does not read strange") as caught:
        told(library, formats=("x", "strange"))
    assert caught.value.why is Why.MISSING
    with pytest.raises(NotReadError, match="this libarchive does not read strange"):
        list(Filtered("strange").members(Once(b"")))


def test_without_the_library_an_archive_is_unread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(libarchive, "_LIBRARY", None)
    assert not libarchive.is_here()
    for reader in (Libarchive("7zip"), Filtered("lzop")):
        with pytest.raises(NotReadError, match="install the package libarchive13") as caught:
            list(reader.members(Once(b"")))
        assert caught.value.why is Why.MISSING


@pytest.mark.parametrize("status", [WARN, FAILED])
def test_options_that_the_library_refuses_end_in_its_reason(library: Script, status: int) -> None:
    reader = Libarchive("x")
    assert list(reader.with_options(Once(b""), b"x:!y")) == [] and library.options == b"x:!y"
    assert list(reader.members(Once(b""))) == [] and library.options == b""
    library.takes_options, library.said = status, b"Undefined option"
    with pytest.raises(NotReadError, match="undefined option"):
        list(reader.with_options(Once(b""), b"x:!y"))


def test_a_member_is_as_exact_as_its_format(library: Script) -> None:
    for is_exact in (False, True):
        library.entries = (Entry(size=7), Entry(kind=LINK, target=b"t" * 5000))
        library.__post_init__()
        found = Libarchive("x", is_exact=is_exact).members(Once(b""))
        (first,), (second,) = [each for each in found if isinstance(each, list)]
        assert (first.size, first.is_exact) == (7, is_exact)
        assert (second.size, second.is_exact) == (5000, True)
