"""Working through nested containers: limits, kept members, and errors in inner containers."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import io
import lzma
import random
import shutil
import subprocess
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import pytest

from fixtures import others, unopened
from fixtures.archives import compress_of
from fixtures.mails import raw, uuencoded
from fixtures.ole import ole_of
from fixtures.others import cpio_binary_of, rpm_of
from hashclient.containers import libarchive
from hashclient.containers.driver import Driver, Spool
from hashclient.containers.interface import (
    Data,
    Expander,
    Member,
    NotReadError,
    Stream,
    Unlisted,
    Why,
)
from hashclient.containers.limits import (
    RATIO_FREE_BYTES,
    RATIO_FREE_OF_MEMBER_BYTES,
    Budget,
    LimitError,
    Limits,
)
from hashclient.containers.protocol import Job, Row
from hashclient.containers.registry import Registry
from hashclient.containers.sniffing import ReadAt
from hashclient.core.model import Mail

X = b"a listed file"
SHA256 = 4


class Found:
    """Receives and keeps the results of a driver."""

    def __init__(self, mask: int = SHA256) -> None:
        self.mask = mask
        self.asked: list[Sequence[int]] = []
        self.chains: dict[int, tuple[bytes, ...]] = {0: ()}
        self.rows: list[Row] = []

    def ask(self, sizes: Sequence[int]) -> bytes:
        self.asked.append(list(sizes))
        return bytes([self.mask if size in (-1, len(X)) else 0 for size in sizes])

    def container(self, parent: int, name: bytes, mail: Mail | None = None) -> int:
        number = len(self.chains)
        self.chains[number] = (*self.chains[parent], name)
        return number

    def row(self, row: Row) -> None:
        self.rows.append(row)

    def chain(self, row: Row) -> tuple[bytes, ...]:
        return (*self.chains[row.container], row.name)

    @property
    def read(self) -> dict[tuple[bytes, ...], bytes]:
        return {self.chain(row): row.digests for row in self.rows if row.mask}

    @property
    def unread(self) -> list[tuple[tuple[bytes, ...], str, str]]:
        return [(self.chain(row), row.why, row.detail) for row in self.rows if row.why]

    def places_of(self, data: bytes) -> list[tuple[bytes, ...]]:
        digest = hashlib.sha256(data).digest()
        return [chain for chain, found in self.read.items() if found == digest]


def drive(
    data: bytes,
    *,
    limits: Limits = Limits(),  # noqa: B008 - frozen
    one_mask: int | None = SHA256,
    forced: bool = False,
    registry: Registry | None = None,
    verify_sizes: bool = False,
) -> Found:
    found = Found()
    job = Job(len(data), 7 if forced else SHA256, one_mask, forced)
    driver = Driver(registry or Registry(), limits, job, found, verify_sizes=verify_sizes)
    driver.run(lambda: Spool(bytearray(data)))
    return found


def zip_of(method: int = zipfile.ZIP_DEFLATED, **files: bytes) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return out.getvalue()


def tar_of(**files: bytes) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return out.getvalue()


def bsdtar(kind: str) -> Callable[[bytes], bytes]:
    def pack(data: bytes) -> bytes:
        with tempfile.TemporaryDirectory() as place:
            (Path(place) / "x").write_bytes(data)
            packed = Path(place) / "packed"
            command = f"bsdtar -C {place} --format {kind} -cf {packed} x"
            subprocess.run(command.split(), check=True)
            return packed.read_bytes()

    return pack


def zstd(data: bytes) -> bytes:
    return subprocess.run(["zstd", "-qc"], input=data, check=True, capture_output=True).stdout


FORM = b'--xx\r\nContent-Disposition: form-data; name="file"; filename="x"\r\n\r\n'
WAYS: Mapping[str, Callable[[bytes], bytes]] = {
    "zip": lambda data: zip_of(x=data),
    "stored": lambda data: zip_of(zipfile.ZIP_STORED, x=data),
    "tar": lambda data: tar_of(x=data),
    "gz": gzip.compress,
    "bz2": bz2.compress,
    "xz": lzma.compress,
    "form": lambda data: FORM + data + b"\r\n--xx--\r\n",
    "ole": lambda data: ole_of({"x": data}),
    "uu": lambda data: uuencoded("x", data).encode(),
    "sfx": lambda data: b"MZ" + bytes(700) + zip_of(x=data),
    "zip in a picture": lambda data: b"\xff\xd8\xff" + b"\x00\x11" * 99 + zip_of(x=data),
}
OTHERS: Mapping[str, Callable[[bytes], bytes]] = {
    **{kind: bsdtar(kind) for kind in ("7zip", "cpio", "ar", "iso9660", "xar")},
    "zstd": zstd,
    "Z": compress_of,
    "rpm": lambda data: rpm_of(gzip.compress(cpio_binary_of({"x": data}))),
}
has_others = libarchive.is_here() and shutil.which("bsdtar") and shutil.which("zstd")
ALL = {**WAYS, **(OTHERS if has_others else {})}


#: A mail, whose last bytes are those of its text as well.
TEXT = raw("X: y", "x" * 9_000), 2


@pytest.mark.parametrize("mark", [b"conectix", b"koly"])
def test_a_file_that_only_its_end_tells_is_of_a_kind_unless_it_is_opened(mark: bytes) -> None:
    end = mark.ljust(512, b"\0")
    for front, kinds in (
        (b"", 1),
        (b"x" * 9_000, 1),
        (zip_of(a=X), 0),
        (gzip.compress(X), 0),
        TEXT,
    ):
        found = drive(front + end)
        assert [bool(row.not_opened) for row in found.rows].count(True) == kinds
        assert bool(found.places_of(X)) is not bool(kinds)
    for other in (b"x" * 9_000, b"x" * 9_000 + end[:-1], zip_of(a=X)):
        assert not any(row.not_opened for row in drive(other).rows)


def test_the_header_of_a_mail_hides_no_disk() -> None:
    """Code to start from is before the table of partitions, and may be any text."""
    disk = b"From: a\nTo: b\n\n".ljust(446, b"x") + unopened.disk()[446:]
    for data in (disk, zip_of(a=disk), tar_of(a=disk)):
        assert [row.not_opened for row in drive(data).rows if row.not_opened] == ["disk"]


@pytest.mark.sampled
@pytest.mark.parametrize("outer", ALL)
@pytest.mark.parametrize("inner", ALL)
def test_any_in_any_other(outer: str, inner: str) -> None:
    data = ALL[outer](ALL[inner](X))
    for found in (drive(data), drive(data, one_mask=None), drive(data, forced=True)):
        digests = [row.digests for row in found.rows if row.mask]
        assert any(hashlib.sha256(X).digest() in digest for digest in digests), found.rows
        # A tar in the first sectors of an OLE file is also read as a tar that follows a foreign
        # block. Programs that read it this way complain about the block.
        block = [((b"",), "damaged", "tar: no header at 512")]
        assert found.unread == (block if (outer, inner) == ("ole", "tar") else [])


def test_a_member_of_an_inner_container_is_a_member_as_well() -> None:
    inner = zip_of(x=X)
    found = drive(tar_of(a=inner, b=X))
    assert found.places_of(inner) == [(b"a",)]
    assert sorted(found.places_of(X)) == [(b"a", b"x"), (b"b",)]


def test_a_message_that_is_an_archive_is_opened_as_both() -> None:
    """The name of the first member looks like a field, but the part may be saved as a file."""
    inner = tar_of(**{"Subject: x": X})
    found = drive(raw("From: a\nContent-Type: message/rfc822", inner))
    assert found.places_of(inner) and found.places_of(X)


@pytest.mark.parametrize("front", [bytes(512), bytes(4096), b"#!/bin/sh\n".ljust(1024, b"#")])
def test_a_tar_behind_other_blocks_is_opened_in_another_whatever_its_size(front: bytes) -> None:
    inner = front + tar_of(x=X)
    for outer in (zip_of(a=inner), tar_of(a=inner)):
        for found in (drive(outer), drive(outer, one_mask=None)):
            assert found.places_of(X) == [(b"a", b"x")]


@pytest.mark.parametrize("pack", [zip_of, tar_of])
def test_too_many_in_one_another_are_unread(pack: Callable[..., bytes]) -> None:
    data = X
    for _ in range(40):
        data = pack(x=data)
    found = drive(data)
    ((chain, why, detail),) = found.unread
    assert (len(chain), why) == (33, Why.LIMIT)
    assert "32 containers deep" in detail
    deep = drive(zip_of(beside=X, deep=data))
    assert (b"beside",) in deep.places_of(X)


def test_thousands_in_one_another_end_soon() -> None:
    data = X
    for _ in range(4_000):
        data = gzip.compress(data, 0)
    assert [why for _, why, _ in drive(data).unread] == [Why.LIMIT]


@pytest.mark.slow
def test_a_bomb_ends_at_the_ratio() -> None:
    bomb = zip_of(n0=bytes(50_000_000), n1=bytes(50_000_000))
    limits = Limits(bytes_out=40_000_000)
    found = drive(bomb, limits=limits)
    assert [(why, "bytes come out" in detail) for _, why, detail in found.unread] == [
        (Why.LIMIT, True)
    ]
    assert not found.read


def test_what_may_come_out_grows_with_the_file_and_with_its_members() -> None:
    """The limit of output rises with the size of the file and with the number of its members."""
    limits = Limits(ratio=2)
    for file_bytes, members in ((10, 0), (RATIO_FREE_BYTES, 0), (RATIO_FREE_BYTES, 3)):
        budget = Budget(limits, file_bytes)
        for _ in range(members):
            budget.member()
        most = max(RATIO_FREE_BYTES, 2 * file_bytes) + members * RATIO_FREE_OF_MEMBER_BYTES
        budget.take(most - 1)
        budget.take(1)
        with pytest.raises(LimitError, match="times its own size"):
            budget.take(1)
    few = Budget(Limits(bytes_out=5), RATIO_FREE_BYTES)
    few.take(5)
    with pytest.raises(LimitError, match="5 bytes come out"):
        few.take(1)


def test_members_of_members_count() -> None:
    data = zip_of(a=zip_of(x=X, y=X), b=zip_of(x=X, y=X))
    found = drive(data, limits=Limits(members=4))
    assert [why for _, why, _ in found.unread] == [Why.LIMIT]
    assert not drive(data, limits=Limits(members=6)).unread


@pytest.mark.slow
def test_a_member_that_exceeds_memory_is_unread_and_the_rest_is_read() -> None:
    inner = zip_of(zipfile.ZIP_STORED, x=bytes(70 << 20))
    found = drive(tar_of(a=inner, b=X), limits=Limits(memory_mib=64))
    ((chain, why, detail),) = found.unread
    assert (chain, why) == ((b"a", b""), Why.LIMIT)
    assert "MiB of memory" in detail
    assert found.places_of(inner) == [(b"a",)]
    assert found.places_of(X) == [(b"b",)]


@pytest.mark.slow
def test_a_program_that_does_not_fit_is_unread_only_if_it_ends_as_a_zip() -> None:
    program = b"MZ" + bytes(70 << 20)
    limits = Limits(memory_mib=64)
    assert not drive(tar_of(a=program), limits=limits).unread
    found = drive(tar_of(a=program + zip_of(x=X)), limits=limits)
    assert [(chain, why) for chain, why, _ in found.unread] == [((b"a", b""), Why.LIMIT)]


@pytest.mark.parametrize("before", [0, 1 << 20])
@pytest.mark.parametrize("in_resources", [False, True])
def test_a_program_that_does_not_fit_is_unread_if_an_archive_is_in_it(
    before: int, *, in_resources: bool
) -> None:
    archive, rest = bytes(before) + others.cab_of({"x": X}), bytes(1 << 20)
    program = others.program_of(*((rest, archive) if in_resources else (archive + rest, b"")))
    limits = Limits(memory_mib=1)  # one member may use half of this memory
    # The program claims to end behind the end of the file.
    lying = program[:104] + b"\xff\xff\xff\x7f" + program[108:]
    for data, reasons in (
        (program, [Why.LIMIT]),
        (lying, [Why.LIMIT]),
        (others.program_of(bytes(before) + rest), []),
    ):
        found = drive(tar_of(a=data), limits=limits)
        assert [why for _, why, _ in found.unread] == reasons
        assert found.places_of(data) == [(b"a",)]


def test_one_question_a_directory() -> None:
    data = zip_of(a=X, b=b"other", c=b"", d=zip_of(e=X, f=b"longer than that"))
    found = drive(data, one_mask=None)
    assert [len(asked) for asked in found.asked] == [4, 2]
    assert sorted(found.places_of(X)) == [(b"a",), (b"d", b"e")]
    ruled_out = {found.chain(row) for row in found.rows if row.ruled_out}
    assert ruled_out == {(b"b",), (b"c",), (b"d",), (b"d", b"f")}


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_of_members_whose_size_no_entry_has_only_the_beginning_is_read(method: int) -> None:
    content = random.Random(4).randbytes(30_000)
    outer = zip_of(method, **{f"m{n}": content for n in range(20)})
    found = drive(outer, one_mask=None)
    assert [row.ruled_out for row in found.rows] == [True] * 20
    driver = Driver(
        Registry(), Limits(), Job(len(outer), 4, None, forced=False), Found(), verify_sizes=False
    )
    driver.run(lambda: Spool(bytearray(outer)))
    assert driver.bytes_out == 20 * 512


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_member_that_is_a_container_is_opened_whatever_its_size(method: int) -> None:
    listed = zip_of(l=X)
    for inner in (listed, b"#!/bin/sh\n" + listed, b"\xff\xd8\xff" + bytes(40_000) + listed):
        found = drive(zip_of(method, o=inner, p=bytes(9_000)), one_mask=None)
        assert found.places_of(X) == [(b"o", b"l")]
    image = bytes(32_768) + b"\x01CD001\x01" + bytes(30_000)
    found = drive(zip_of(method, o=image), one_mask=None)
    assert {chain[0] for chain, _, _ in found.unread} == {b"o"}


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_member_whose_beginning_is_damaged_is_unread_whatever_its_size(method: int) -> None:
    outer = bytearray(zip_of(method, bad=b"short " * 20, good=b"short " * 30))
    outer[40] ^= 0xFF
    found = drive(bytes(outer), one_mask=None)
    assert [(chain, why) for chain, why, _ in found.unread] == [((b"bad",), "damaged")]
    assert [row.name for row in found.rows if row.ruled_out] == [b"good"]


def test_a_claim_is_exact_only_where_it_cannot_lie() -> None:
    def exact(method: int) -> list[bool]:
        found = drive(zip_of(method, b=b"other"), one_mask=None)
        return [row.exact for row in found.rows]

    assert exact(zipfile.ZIP_STORED) == [True]
    assert exact(zipfile.ZIP_DEFLATED) == [False]


def test_claims_count_for_nothing_where_sizes_are_verified() -> None:
    found = drive(zip_of(b=b"other"), one_mask=None, verify_sizes=True)
    assert found.places_of(b"other") == [(b"b",)]


class Odd:
    """An expander that raises an error of an unexpected kind."""

    name = "odd"
    seeks = False

    def __init__(self, error: Exception) -> None:
        self._error = error

    def members(self, data: Data | Stream) -> Iterator[list[Member] | Unlisted]:
        def chunks() -> Iterator[bytes]:
            yield b"begins"
            raise self._error

        yield [Member(b"broken", None, is_exact=False, chunks=chunks)]
        yield [Member(b"whole", None, is_exact=False, chunks=lambda: iter([X]))]
        raise self._error


class FewInTar(Registry):
    def most_members(self, name: str) -> int | None:
        return 2 if name == "tar" else super().most_members(name)


def test_of_a_container_no_more_members_are_taken_than_its_kind_declares() -> None:
    two, three = tar_of(a=X, b=X), tar_of(a=X, b=X, c=X)
    found = drive(zip_of(t=two, u=three, v=two), registry=FewInTar())
    assert found.unread == [((b"u", b""), Why.LIMIT, "tar: too many members")]
    places = [(outer, inner) for outer in (b"t", b"u", b"v") for inner in (b"a", b"b")]
    assert found.places_of(X) == places


class OnlyOdd(Registry):
    def __init__(self, error: Exception) -> None:
        super().__init__()
        self._odd = Odd(error)

    def pick(
        self, head: bytes, tail: bytes, size: int = 0, read_at: ReadAt | None = None
    ) -> list[Expander]:
        return [self._odd] if head.startswith(b"PK\x03\x04odd") else []


@pytest.mark.parametrize(
    ("error", "why"),
    [
        (NotReadError(Why.ENCRYPTED, "x"), Why.ENCRYPTED),
        (MemoryError(), Why.LIMIT),
        (ValueError("x"), Why.DAMAGED),
        (RecursionError(), Why.DAMAGED),
        (ZeroDivisionError(), Why.DAMAGED),
    ],
)
def test_after_any_failure_a_member_is_unread_and_the_others_are_read(
    error: Exception, why: Why
) -> None:
    found = drive(b"PK\x03\x04odd", registry=OnlyOdd(error))
    assert [(chain, said) for chain, said, _ in found.unread] == [
        ((b"broken",), why),
        ((b"",), why),
    ]
    assert found.places_of(X) == [(b"whole",)]


def test_a_container_that_breaks_off_is_still_digested_whole() -> None:
    inner = tar_of(x=X)[:-1000] + b"\xff" * 1000
    found = drive(zip_of(t=inner))
    assert found.places_of(inner) == [(b"t",)]
    assert found.places_of(X) == [(b"t", b"x")]


def test_a_million_empty_members_are_counted_in_little_memory() -> None:
    """All members of the tar have one header, and the driver must keep no data for each member."""
    import resource

    block = tar_of(x=b"")[:512]
    data = block * 20_000 + bytes(1024)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found = Counting()
    job = Job(len(data), SHA256, SHA256, forced=False)
    driver = Driver(Registry(), Limits(), job, found, verify_sizes=False)
    driver.run(lambda: Spool(bytearray(data)))
    assert found.count == 20_000
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 60_000


class Counting(Found):
    count = 0

    def row(self, row: Row) -> None:
        self.count += 1


@pytest.mark.skipif(not has_others, reason="libarchive is not here")
@pytest.mark.parametrize(
    "kind", ["7zip", "ar", "cpio", "gnutar", "iso9660", "odc", "pax", "ustar", "xar", "zip"]
)
def test_digests_are_those_of_what_bsdtar_extracts(kind: str, tmp_path: Path) -> None:
    chance = random.Random(kind)
    source = tmp_path / "s"
    (source / "d").mkdir(parents=True)
    names = [f"d/{n}-{chance.randrange(10**6)}.bin" for n in range(8)]
    if kind == "ar":
        names = [f"m{n}" for n in range(8)]
    for name in names:
        size = chance.choice([0, 1, 511, 512, 513, 70_000, 300_000])
        data = chance.randbytes(size) if chance.random() < 0.5 else b"text " * (size // 5)
        (source / name).write_bytes(data)
    packed = tmp_path / "packed"
    subprocess.run(["bsdtar", "-C", source, "--format", kind, "-cf", packed, *names], check=True)
    found = drive(packed.read_bytes())
    assert not found.unread
    for (inside,), digest in found.read.items():
        given = ["bsdtar", "-xOf", str(packed), inside.decode()]
        out = subprocess.run(given, check=True, capture_output=True).stdout
        assert hashlib.sha256(out).digest() == digest, inside
    assert len(found.read) == len(names)
