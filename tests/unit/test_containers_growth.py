"""Hostile bytes take linear time: eight times as many bytes take about eight times as long.

Earlier versions needed quadratic time, or more, for each of these inputs. The tests compare
processor time.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Callable

import pytest

from fixtures import archives
from fixtures.ole import ole_of
from hashclient.containers.sniffing import look
from tests.unit.test_containers_driver import drive

MAIL = b"From: a@b.c\nSubject: x\nMIME-Version: 1.0\nContent-Type: multipart/mixed; boundary=b"
PART = MAIL + b"\n\n--b\n\n"


def dashes(count: int) -> bytes:
    """Return header lines that could be boundaries, after a long field that names a boundary."""
    return MAIL + b";\n x=yyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy" * count + b"\n" + b"--a: b\n" * count


def types(count: int) -> bytes:
    """Return the lines of `dashes` with the type of the mail between them."""
    return MAIL + b";\n x=yyyyyyyyyy" * count + b"\n" + b"--a: b\nContent-Type: a/b\n" * count


def begins(count: int) -> bytes:
    """Return beginnings of uuencoded files in a text that is kept as a whole."""
    return b"\n" + PART + b"begin 644 x\n" * count


def blanks(count: int) -> bytes:
    """Return a line that begins a uuencoded file, except that the end of the line is wrong."""
    return PART + b"begin 644" + b" " * count + b"\rx\n"


def blanks_within(count: int) -> bytes:
    """Return a line that begins a uuencoded file, with blanks within the line."""
    return PART + b"begin 644 x\nbegin 644" + b" " * count + b"\rx\n#86%A\nend\n"


def parts_of_yenc(count: int) -> bytes:
    """Return lines of yEnc that say many times where a part begins, and never where it ends."""
    return PART + b"=ybegin name=x size=1\n=ypart" + b" begin=1" * count + b"\nabc\n=yend\n"


def streams_of_one_chain(count: int) -> bytes:
    """Return streams of OLE2 which all claim the sectors of the longest stream."""
    contents = {f"{number:05d}": b"" for number in range(count)}
    data = bytearray(ole_of({"long": bytes(512 * 10 * count)} | contents))
    (directory,) = struct.unpack_from("<L", data, 48)
    entries = range((directory + 1) << 9, len(data), 128)
    long = next(at for at in entries if data[at : at + 8] == "long".encode("utf-16-le"))
    for at in entries:
        if data[at + 66] == 2:
            data[at + 116 : at + 128] = data[long + 116 : long + 128]
    return bytes(data)


def names_of_sparse_forms(count: int) -> bytes:
    """Return fields for all members, whose names belong to unknown sparse forms."""
    fields = {b"GNU.sparse.%d" % number: b"x" for number in range(count)}
    return archives.pax(fields, b"g") + archives.tar_member(b"x", b"") * count + bytes(1024)


def map_for_all_members(count: int) -> bytes:
    """Return a sparse map of many pieces in a header for all members."""
    fields = {b"GNU.sparse.map": b",".join([b"0"] * 40 * count)}
    return archives.pax(fields, b"g") + archives.tar_member(b"x", b"") * count + bytes(1024)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("hostile", "count"),
    [
        (dashes, 300),
        (types, 300),
        (begins, 5_000),
        (blanks, 250),
        (blanks_within, 250),
        (parts_of_yenc, 1_500),
        (streams_of_one_chain, 100),
        (names_of_sparse_forms, 500),
        (map_for_all_members, 500),
    ],
)
def test_work_grows_with_the_number_of_bytes(hostile: Callable[[int], bytes], count: int) -> None:
    seconds = []
    for data in (hostile(count), hostile(8 * count)):
        start = time.process_time()
        drive(data, one_mask=None)
        seconds.append(time.process_time() - start)
    few, many = seconds
    assert many < 24 * max(few, 0.005)


def test_a_file_is_looked_at_in_no_time_whatever_blanks_it_has() -> None:
    start = time.process_time()
    for _ in range(100):
        look(b"begin 644" + b" " * 500 + b"\rx\n")
    assert time.process_time() - start < 1  # trying each combination takes 25 s


@pytest.mark.parametrize("ends", [b"\n\r", b"\r\n", b"\r"])
def test_a_short_mail_is_no_forest_of_readings(ends: bytes) -> None:
    """Each reading of a text leads to further readings, which yield the same parts again."""
    text = b"From x Fri May  1 12:00:00 2026\n" + PART + b"Content-Type: text/plain\n\ntext\n\n"
    found = drive(((text + b"--b--\n\n") * 3).replace(b"\n", ends))
    assert len(found.chains) < 200
    assert max(map(len, found.chains.values())) < 12


@pytest.mark.parametrize("ends", [b"\n", b"\r\n"])
def test_messages_without_texts_are_read_as_often_as_others(ends: bytes) -> None:
    """If a mailbox is read as one mail, its text is again a mailbox and a mail."""
    message = b"From x Fri May  1 12:00:00 2026\nFrom: a@b.c\nSubject: x\n\n".replace(b"\n", ends)
    few, many = (len(drive(message * count).rows) for count in (20, 60))
    assert many < 3.1 * few
    attached = (MAIL + b"\n\n--b\n\nattached\n--b--\n").replace(b"\n", ends)
    assert drive(message * 20 + message[: -len(ends)] + attached).places_of(b"attached")
