"""Facts about age files that need no key: their length, header, recipients and chunks."""

from __future__ import annotations

import pytest

from hashclient.core import agefile
from hashclient.core.agefile import MAGIC, Chunks, looks_sealed, parse_header, sealed_bytes
from hashclient.core.errors import StateError

END = b"--- " + b"A" * 43 + b"\n"


@pytest.mark.parametrize(
    ("size", "length"),
    [(0, 32), (1, 33), (65_535, 65_567), (65_536, 65_568), (65_537, 65_585), (131_072, 131_120)],
)
def test_each_chunk_has_a_tag_and_the_first_a_nonce(size: int, length: int) -> None:
    assert sealed_bytes(0, size) == length
    assert sealed_bytes(200, size) == length + 200


@pytest.mark.parametrize("sizes", [[], [0], [3], [0, 5, 0, 0, 2], [1] * 7])
@pytest.mark.parametrize("piece", [1, 2, 5, 99])
def test_chunks_are_read_in_pieces_of_any_size(sizes: list[int], piece: int) -> None:
    data = bytes(range(sum(sizes)))
    starts = [sum(sizes[:n]) for n in range(len(sizes))]
    chunks = Chunks(data[a : a + size] for a, size in zip(starts, sizes, strict=True))
    found = []
    while part := chunks.read(piece):
        assert len(part) <= piece
        found.append(part)
    assert b"".join(found) == data
    assert chunks.read(piece) == b""


@pytest.mark.parametrize("recipients", [0, 1, 3])
def test_a_header_has_its_length_and_its_recipients(recipients: int) -> None:
    header = MAGIC + b"-> X25519 a\nabc\n" * recipients + b"-> x-grease b\n\n" + END
    found = parse_header(header + b"-> X25519 of the content\n")
    assert (found.header_bytes, found.recipients) == (len(header), recipients)


@pytest.mark.parametrize("more", [-1, 0, 1])
def test_a_header_may_be_as_long_as_the_limit(more: int) -> None:
    filling = agefile.MAX_HEADER_BYTES - len(MAGIC) - len(END) + more
    data = MAGIC + b"x" * (filling - 1) + b"\n" + END
    assert len(data) == 65_536 + more
    if more > 0:
        with pytest.raises(StateError):
            parse_header(data)
    else:
        assert parse_header(data).header_bytes == len(data)


@pytest.mark.parametrize("data", [b"", MAGIC, END, b"x" + MAGIC + END, MAGIC + END[:-2] + b"\n"])
def test_other_bytes_have_no_header(data: bytes) -> None:
    with pytest.raises(StateError):
        parse_header(data)


@pytest.mark.parametrize(
    ("head", "sealed"),
    [
        (b"", True),
        (b"age", True),
        (MAGIC, True),
        (MAGIC + b"anything", True),
        (b"age-encryption.org/v2\n", True),
        (b"age-encryption.org/", True),
        (b"age-encryption.com/", False),
        (b"ageing", False),
        (b"damaged\n-> X25519 abc", True),
        (b"damaged\n-> ssh-ed25519 abc", True),
        (b"damaged\n-> ssh-rsa abc", True),
        (b"damaged\n-> other abc", False),
        (b"damaged -> X25519 abc", False),
    ],
)
def test_what_may_be_an_age_file(head: bytes, sealed: bool) -> None:
    assert looks_sealed(head) is sealed
