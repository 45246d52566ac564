"""Halves of a mailbox: messages whose multipart does not end, and goes on in a later message."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import pytest

from hashclient.containers.mboxhalves import Halves

HEAD = b"Content-Type: multipart/mixed; boundary=b1\n\n"
OPEN = HEAD + b"--b1\n\npart\n"
WHOLE = OPEN + b"--b1--\n"
REST = b"Subject: x\n\nrest\n--b1\n\nmore\n--b1--\n"
PLAIN = b"Subject: x\n\ntext\n"


def in_one(message: bytes) -> Iterable[bytes]:
    return [message]


def by_bytes(message: bytes) -> Iterable[bytes]:
    return (bytes([byte]) for byte in message)


def by_sevens(message: bytes) -> Iterable[bytes]:
    return (message[at : at + 7] for at in range(0, len(message), 7))


each_cut = pytest.mark.parametrize("cut", [in_one, by_bytes, by_sevens])


def halves(
    *messages: bytes, cut: Callable[[bytes], Iterable[bytes]] = in_one, last_leaves: bool = False
) -> list[bytes]:
    """Return the names of the halves; each name is the number of a message."""
    found = Halves()
    for number, message in enumerate(messages):
        found.begin(b"%d" % number)
        for piece in cut(message):
            found.watch(piece)
        found.end()
        if number < len(messages) - 1 or last_leaves:
            found.leave()
    return found.found


@each_cut
@pytest.mark.parametrize(
    ("messages", "expected"),
    [
        ([OPEN, REST], [b"0"]),
        ([OPEN, PLAIN, REST], [b"0"]),
        ([PLAIN, OPEN, PLAIN, REST], [b"1"]),
        # The boundary occurs in the header, the last line, or the first line of a later message.
        ([OPEN, b"X: y\n--b1\n\n"], [b"0"]),
        ([OPEN, b"--b1\nX: y\n\n"], [b"0"]),
        ([OPEN, b"X: y\n\nrest\n--b1"], [b"0"]),
        ([OPEN, b"X: y\n\n--b1"], [b"0"]),
        # It is reported once.
        ([OPEN, REST, REST], [b"0"]),
        ([HEAD, REST], [b"0"]),
        ([OPEN.replace(b"\n", b"\r\n"), REST.replace(b"\n", b"\r\n")], [b"0"]),
        # A message that is only truncated is no half.
        ([OPEN, PLAIN], []),
        ([OPEN], []),
        ([OPEN, b"X: y\n\nb1 and x--b1\n"], []),
        # A multipart that ends is no half, also if its boundary occurs later.
        ([WHOLE, REST], []),
        ([WHOLE[:-1], REST], []),
        # The end does not count before the first part has begun.
        ([HEAD + b"--b1--\n", REST], [b"0"]),
        ([HEAD + b"--b1--\n--b1\n\npart\n--b1--\n", REST], []),
        # The delimiter of a part may be followed by the end in the same piece.
        ([HEAD + b"--b1\n--b1\n--b1--", REST], []),
        ([HEAD + b"--b1\n\npart --b1--\n", REST], [b"0"]),
        ([OPEN + b"--b1x\n", REST], [b"0"]),
        ([HEAD + b"--b1\n\npart\n--b1-", REST], [b"0"]),
        # A later message with the same boundary, which has parts of its own, is no second half.
        ([OPEN, WHOLE], []),
        ([OPEN, OPEN, REST], [b"1"]),
        # Without an empty line, all bytes count as the header.
        ([HEAD[:-1], REST], [b"0"]),
        ([HEAD[:-1] + b"--b1\n--b1--", REST], []),
        # Programs pass over one empty line before the header.
        ([b"\n" + HEAD, REST], [b"0"]),
        # A header may be empty; what follows the empty line is no header.
        ([b"\n\n" + HEAD, REST], []),
        ([b"\r\n\r\n" + HEAD, REST], []),
        ([b"\n\r\n" + HEAD, REST], []),
        ([PLAIN + HEAD, REST], []),
        ([b"X: y\n\r\n" + HEAD, REST], []),
    ],
)
def test_halves_are_found_however_the_bytes_arrive(
    messages: list[bytes], expected: list[bytes], cut: Callable[[bytes], Iterable[bytes]]
) -> None:
    assert halves(*messages, cut=cut) == expected


def test_a_message_within_a_message_is_a_half_if_another_message_follows() -> None:
    inner = b"Content-Type: message/rfc822\n\n" + OPEN
    assert halves(inner, PLAIN) == [b"0"]
    assert halves(inner) == []
    assert halves(inner, last_leaves=True) == [b"0"]
    assert halves(PLAIN.replace(b"Subject: x", b"Content-Type: text/plain"), PLAIN) == []
    # What a message was does not count for the message behind it.
    assert halves(inner, PLAIN, PLAIN) == [b"0"]


def test_many_open_multiparts_are_kept_and_one_more_is_a_half() -> None:
    def opened(number: int) -> bytes:
        return OPEN.replace(b"b1", b"c%03dc" % number)

    many = [opened(number) for number in range(256)]
    last = b"X: y\n\n--c000c\n--c255c\n"
    assert sorted(halves(*many, last)) == [b"0", b"255"]
    assert sorted(halves(*many, opened(256), last)) == [b"0", b"255", b"256"]


@pytest.mark.parametrize("more", [-1, 0, 9])
def test_a_long_header_is_read_up_to_its_bound(more: int) -> None:
    """What follows the first 64 KiB is no header, even if no empty line comes before it."""
    end = b"\n\n--b1\n\npart\n"
    field = b"Content-Type: multipart/mixed; boundary=b1"
    filler = b"X: " + b"y" * (65_536 + more - len(b"X: \n") - len(field)) + b"\n"
    assert halves(filler + field + end, REST, cut=by_sevens) == ([b"0"] if more <= 0 else [])
