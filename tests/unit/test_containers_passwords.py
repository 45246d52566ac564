"""Encrypted members of a zip: which of them the known passwords open, and what stays unread."""

from __future__ import annotations

import zlib
from collections.abc import Iterator

import pytest

from fixtures.archives import DEFLATED, STORED, Zip, raw_deflate
from hashclient.containers import libarchive
from hashclient.containers.interface import Unlisted, Why
from hashclient.containers.passwords import ZipWithPasswords, zip_with
from tests.opened import opened

A, B, C = b"benign A " * 30, b"benign B " * 20, b"plain"
needs_library = pytest.mark.skipif(not libarchive.is_here(), reason="no libarchive")


def _step(crc: int, byte: int) -> int:
    """Return a checksum after one more byte, without the inversions of `crc32`."""
    return zlib.crc32(bytes([byte]), crc ^ 0xFFFFFFFF) ^ 0xFFFFFFFF


def closed(content: bytes, password: bytes, method: int = STORED) -> bytes:
    """Return the bytes of a member, encrypted as PKZIP 2 does (APPNOTE.TXT, 6.1)."""
    one, two, three = 0x12345678, 0x23456789, 0x34567890

    def take(byte: int) -> None:
        nonlocal one, two, three
        one = _step(one, byte)
        two = ((two + (one & 0xFF)) * 134775813 + 1) & 0xFFFFFFFF
        three = _step(three, two >> 24)

    for byte in password:
        take(byte)
    out = bytearray()
    packed = raw_deflate(content) if method == DEFLATED else content
    for byte in bytes(11) + (zlib.crc32(content) >> 24).to_bytes(1, "big") + packed:
        mask = (three | 2) & 0xFFFF
        out.append(byte ^ (mask * (mask ^ 1) >> 8 & 0xFF))
        take(byte)
    return bytes(out)


def add(out: Zip, name: bytes, content: bytes, password: bytes, method: int = STORED) -> Zip:
    return out.add(name, content, method, flags=1, data=closed(content, password, method))


@needs_library
@pytest.mark.parametrize("method", [STORED, DEFLATED])
@pytest.mark.parametrize("words", [(b"p",), (b"other", b"p"), (b"p", b"other")])
def test_members_are_opened_with_any_of_the_passwords(
    method: int, words: tuple[bytes, ...]
) -> None:
    out = add(add(Zip(), b"a", A, b"p", method).add(b"c", C), b"b", B, b"p", method)
    found = opened(ZipWithPasswords(words), out.end())
    assert found.members == [(b"c", C), (b"a", A), (b"b", B)] and not found.unread


@needs_library
def test_members_with_another_password_are_unread_and_those_beside_them_are_read() -> None:
    out = add(add(Zip(), b"a", A, b"p").add(b"c", C), b"b", B, b"another")
    found = opened(ZipWithPasswords((b"p",)), out.end())
    assert found.members == [(b"c", C), (b"a", A)]
    assert found.unread == [(b"b", Why.ENCRYPTED)]


@needs_library
def test_each_of_several_members_with_the_same_name_is_opened() -> None:
    out = add(add(Zip(), b"x", A, b"p").add(b"x", C), b"x", B, b"p")
    found = opened(ZipWithPasswords((b"p",)), out.end())
    assert found.members == [(b"x", C), (b"x", A), (b"x", B)] and not found.unread


@needs_library
def test_another_reason_to_leave_a_member_unread_is_told_beside_encryption() -> None:
    out = add(Zip().add(b"d", B, 77, data=B), b"a", A, b"p")
    found = opened(ZipWithPasswords((b"p",)), out.end())
    assert found.members == [(b"a", A)]
    assert found.unread == [(b"d", Why.UNSUPPORTED)]


class Lister:
    """Replaces libarchive: it lists the given members as encrypted."""

    def __init__(self, *found: bytes) -> None:
        self._found = found

    def encrypted(self, _: object) -> Iterator[list[object] | Unlisted]:
        for name in self._found:
            yield Unlisted(name, Why.DAMAGED, "told by the library")


@pytest.mark.parametrize(
    ("listed", "reasons"),
    [
        ((), [(b"x", Why.ENCRYPTED), (b"y", Why.ENCRYPTED), (b"x", Why.ENCRYPTED)]),
        ((b"x",), [(b"x", Why.DAMAGED), (b"x", Why.ENCRYPTED), (b"y", Why.ENCRYPTED)]),
        ((b"x", b"x"), [(b"x", Why.DAMAGED), (b"x", Why.DAMAGED), (b"y", Why.ENCRYPTED)]),
        ((b"x", b"x", b"x", b"z", b"y"), [(b"x", Why.DAMAGED)] * 2 + [(b"y", Why.DAMAGED)]),
    ],
)
def test_members_that_the_library_does_not_list_stay_unread(
    listed: tuple[bytes, ...],
    reasons: list[tuple[bytes, Why]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(libarchive, "is_here", lambda: True)
    out = add(add(add(Zip(), b"x", A, b"p"), b"y", B, b"p"), b"x", B, b"p")
    expander = ZipWithPasswords((b"p",))
    monkeypatch.setattr(expander, "_reader", Lister(*listed))
    assert opened(expander, out.end()).unread == reasons


def test_without_the_library_encrypted_members_stay_unread(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(libarchive, "is_here", lambda: False)
    found = opened(ZipWithPasswords((b"p",)), add(Zip().add(b"c", C), b"a", A, b"p").end())
    assert found.members == [(b"c", C)] and found.unread == [(b"a", Why.ENCRYPTED)]


def test_passwords_are_tried_if_there_are_any() -> None:
    data = add(Zip().add(b"c", C), b"a", A, b"p").end()
    plain, trying = zip_with("zip", ()), zip_with("zip", (b"p",))
    assert (plain.name, plain.seeks) == (trying.name, trying.seeks) == ("zip", True)
    assert opened(plain, data).unread == [(b"a", Why.ENCRYPTED)]
    if libarchive.is_here():
        assert opened(trying, data).contents == [C, A]
    assert ZipWithPasswords.ends(data) and not ZipWithPasswords.ends(b"x" * 99)
