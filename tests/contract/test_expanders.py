"""Rules that every expander must keep, for each kind of container."""

from __future__ import annotations

import random
import sys
import tarfile
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import pytest

from fixtures import archives, mails, ole, pdfs, pst
from hashclient.containers import libarchive, libformats
from hashclient.containers.compressed import Bzip2, Gzip, Lzma, Xz
from hashclient.containers.encoded import Encoded
from hashclient.containers.interface import Expander, Unlisted
from hashclient.containers.mail import Eml, Message
from hashclient.containers.mbox import Mbox
from hashclient.containers.ole import Ole
from hashclient.containers.pdf import Pdf
from hashclient.containers.pst import Pst
from hashclient.containers.tar import Tar
from hashclient.containers.tnef import Tnef
from hashclient.containers.zip import Zip
from tests.opened import MAX_PIECE_BYTES, Once, Whole, each, opened, sniffs

Contents = dict[str, bytes]


class Row(NamedTuple):
    """An expander, and a function that makes a container of its kind.

    `holds`: the number of members that fit into the container; one in a compressed file.
    `is_whole`: the kind has checksums, so a container that is cut or has a changed byte yields all
    contents unchanged or reports which are unread. `tells_cuts`: a cut container is reported,
    wherever bytes of a member are missing. `first`: the number of members before those of the test,
    such as the text of a mail.
    """

    name: str
    expander: Expander
    make: Callable[[Contents], bytes]
    holds: int = 99
    is_whole: bool = False
    tells_cuts: bool = True
    first: int = 0
    is_sniffed: bool = True


def only(pack: Callable[[bytes], bytes]) -> Callable[[Contents], bytes]:
    return lambda contents: pack(next(iter(contents.values())))


def mail(contents: Contents) -> bytes:
    return mails.mail_of(contents).as_bytes()


def mailbox(contents: Contents) -> bytes:
    return mails.mbox_of(b"Subject: x\nTo: y\n\n" + content for content in contents.values())


def compound(contents: Contents) -> bytes:
    return ole.ole_of({name.replace("/", "-"): content for name, content in contents.items()})


def encoded(contents: Contents) -> bytes:
    return "".join(mails.uuencoded(name, content) for name, content in contents.items()).encode()


ROWS = [
    Row("zip", Zip(), archives.zip_of, is_whole=True),
    Row("zip-streamed", Zip(), lambda c: archives.zip_of(c, streamed=True), is_whole=True),
    Row("zip-stored", Zip(), lambda c: archives.zip_of(c, archives.STORED), is_whole=True),
    Row("zip-bzip2", Zip(), lambda c: archives.zip_of(c, archives.BZIP2), is_whole=True),
    Row("zip-lzma", Zip(), lambda c: archives.zip_of(c, archives.LZMA), is_whole=True),
    Row("tar", Tar(), archives.tar_of),
    Row("tar-gnu", Tar(), lambda c: archives.tar_of(c, tarfile.GNU_FORMAT)),
    Row("gzip", Gzip(), only(archives.gzip_of), holds=1, is_whole=True),
    Row("bzip2", Bzip2(), only(archives.bzip2_of), holds=1, is_whole=True),
    Row("xz", Xz(), only(archives.xz_of), holds=1, is_whole=True),
    Row("lzma", Lzma(), only(archives.lzma_of), holds=1),
    Row("eml", Eml(), mail, tells_cuts=False, first=2),
    Row("message", Message(), mail, tells_cuts=False, first=2, is_sniffed=False),
    Row("tnef", Tnef(), mails.tnef_of),
    Row("encoded", Encoded(), encoded, tells_cuts=False),
    Row("ole", Ole(), compound),
    Row("pst", Pst(), pst.pst_of, is_whole=True),
]
if libarchive.is_here():
    z = libformats.reader("compress", ())
    ROWS.append(Row("compress", z, only(archives.compress_of), holds=1, tells_cuts=False))
if find_spec("pikepdf"):
    ROWS.append(Row("pdf", Pdf(), pdfs.pdf_of, tells_cuts=False))
SMALL: Contents = {"a.bin": b"benign one, benign one", "dir/b.txt": bytes(range(200)), "c": b"x"}

each_kind = pytest.mark.parametrize("row", ROWS, ids=[row.name for row in ROWS])


def held(row: Row, contents: Contents) -> Contents:
    return dict(list(contents.items())[: row.holds])


@each_kind
def test_every_member_is_listed_with_its_bytes(row: Row) -> None:
    contents = held(row, SMALL)
    out = opened(row.expander, row.make(contents))
    assert out.contents[row.first :] == list(contents.values())
    assert not out.unread


@each_kind
def test_a_size_that_is_claimed_is_that_of_the_bytes_and_one_that_is_exact_is_there(
    row: Row,
) -> None:
    out = opened(row.expander, row.make(held(row, SMALL)))
    for member, content in zip(out.listed, out.contents, strict=True):
        assert member.size in (None, len(content))
        assert member.size is not None or not member.is_exact


@each_kind
def test_bytes_that_come_once_give_the_same(row: Row) -> None:
    if row.expander.seeks:
        return
    data = row.make(held(row, SMALL))
    want = opened(row.expander, data)
    for step in (1, 7, 4096):
        assert opened(row.expander, Once(data, step)).members == want.members


@each_kind
def test_it_is_known_by_its_bytes_and_nothing_else_is(row: Row) -> None:
    data = row.make(held(row, SMALL))
    assert sniffs(row.expander, data) == row.is_sniffed
    for other in ROWS:
        if other.is_sniffed and other.expander.name != row.expander.name:
            assert not sniffs(row.expander, other.make(held(other, SMALL))), other.name
    assert not sniffs(row.expander, b"")


@pytest.mark.slow
@each_kind
def test_no_ordinary_file_is_unread(row: Row) -> None:
    folder = Path(__file__).parents[2]
    files = [
        path for path in folder.rglob("*.*") if path.suffix in (".py", ".md", ".toml", ".json")
    ]
    for path in [*files[:400], Path(sys.executable)]:
        with path.open("rb") as file:
            data = file.read(1 << 20)
        if sniffs(row.expander, data):
            assert not opened(row.expander, data).unread, path


@pytest.mark.sampled
@each_kind
def test_pieces_are_bounded_and_the_first_is_cheap(row: Row) -> None:
    large = held(row, {"zeros": bytes(1 << 20), "x": random.Random(1).randbytes(300_000)})
    out = opened(row.expander, row.make(large))
    assert out.contents[row.first :] == list(large.values())
    for found in each(row.expander, Whole(row.make(large))):
        assert not isinstance(found, Unlisted)
        assert len(next(found.chunks())) <= MAX_PIECE_BYTES


@each_kind
def test_a_member_that_is_given_up_hides_none_behind_it(row: Row) -> None:
    contents = held(row, {**SMALL, "large": bytes(1 << 20), "last": b"benign end"})
    names = []
    for found in each(row.expander, Whole(row.make(contents))):
        assert not isinstance(found, Unlisted)
        names.append(found.name)
        if len(names) % 2:
            next(found.chunks(), None)
    assert len(names) == len(contents) + row.first


@pytest.mark.sampled
@each_kind
def test_cut_anywhere_what_is_missing_is_unread(row: Row) -> None:
    data = row.make(held(row, SMALL))
    whole = opened(row.expander, data).contents
    for length in range(len(data)):
        out = opened(row.expander, data[:length])
        if row.tells_cuts and not out.unread:
            # The container was cut at the end of a member, so later members are missing.
            assert out.contents == whole[: len(out.contents)], length
            assert not row.is_whole or out.contents == whole or not length, length


@pytest.mark.sampled
@each_kind
def test_with_any_byte_another_there_is_an_answer_and_no_wrong_one(row: Row) -> None:
    data = row.make(held(row, SMALL))
    whole = opened(row.expander, data).contents
    for at in range(min(len(data), 2048)):
        for flip in (0x01, 0xFF):
            changed = bytearray(data)
            changed[at] ^= flip
            out = opened(row.expander, bytes(changed))
            if row.is_whole and not out.unread and not _is_name(row, bytes(changed)):
                assert set(whole) <= set(out.contents), (at, flip)


def _is_name(row: Row, changed: bytes) -> bool:
    """Return whether the changed byte is one of the magic bytes, so the file is not opened."""
    return not sniffs(row.expander, changed)


def test_a_mailbox_gives_its_messages() -> None:
    data = mailbox(SMALL)
    assert sniffs(Mbox(), data)
    out = opened(Mbox(), data)
    assert [content.split(b"\n\n", 1)[1] for content in out.contents] == [
        content + b"\n" for content in SMALL.values()
    ]
    assert {member.kind for member in out.listed} == {Message().name}
