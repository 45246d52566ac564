"""tar: every dialect, sparse members, concatenated archives, and headers with false values."""

from __future__ import annotations

import io
import itertools
import random
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest

from fixtures import archives
from fixtures.archives import TAR_END, pax, tar_header, tar_member, tar_of
from hashclient.containers import forward, tarsparse
from hashclient.containers.interface import ISO_HEAD_BYTES, Member, Unlisted, Why
from hashclient.containers.registry import Registry
from hashclient.containers.tar import MAX_EXTENDED_BYTES, Tar
from hashclient.containers.tarheader import is_header
from tests.opened import Once, Opened, Whole, each, has_mark, opened, sniffs

A, B = b"benign A " * 100, b"benign B"
GNU_TAR = shutil.which("tar")


def look(data: bytes) -> Opened:
    assert sniffs(Tar(), data)
    whole, once = opened(Tar(), data), opened(Tar(), Once(data, 700))
    assert (whole.members, whole.unread) == (once.members, once.unread)
    return whole


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_python_agrees_with_it(form: int) -> None:
    chance = random.Random(form)
    long = "d/" * 40 + "x" * 90 if form == tarfile.USTAR_FORMAT else "n" * 300
    contents = {"a": A, "empty": b"", long: B, "\xe4": bytes(512), "z": chance.randbytes(9000)}
    data = tar_of(contents, form)
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        want = {info.name.encode(): archive.extractfile(info) for info in archive}
        wanted = [(name, file.read()) for name, file in want.items() if file is not None]
    out = look(data)
    assert out.members == wanted and not out.unread
    assert [(m.size, m.is_exact) for m in out.listed] == [(len(c), True) for _, c in wanted]


def test_old_archives_have_no_mark_and_some_sum_signed_bytes() -> None:
    data = tar_member(b"a", A, b"\0", magic=b"") + tar_member(b"\xe4\xf6", B, magic=b"ustar  \0")
    assert look(data + TAR_END).members == [(b"a", A), (b"\xe4\xf6", B)]
    signed = tar_header(b"\xe4\xf6\xfc", len(B), signed=True) + B.ljust(512, b"\0")
    assert look(signed + TAR_END).contents == [B]


def test_large_numbers_are_binary() -> None:
    field = b"\x80" + bytes(7) + len(A).to_bytes(4, "big")
    data = tar_header(b"a", 0, size_field=field) + A + bytes(-len(A) % 512) + tar_member(b"b", B)
    assert look(data).contents == [A, B]
    negative = tar_header(b"a", 0, size_field=b"\xff" * 12) + tar_member(b"b", B)
    assert opened(Tar(), negative).unread == [(b"a", Why.DAMAGED)]
    assert opened(Tar(), negative).contents == [B]


def test_archives_one_behind_the_other_are_one() -> None:
    one, other = tar_of({"a": A}), tar_of({"b": B})
    assert look(one + other).contents == [A, B]
    assert look(one + b"garbage".ljust(512, b".") + other + b"rest").contents == [A, B]
    assert not look(one + bytes(100_000) + b"rest").unread


def test_members_behind_a_damaged_header_are_read_and_it_is_unread() -> None:
    broken = bytearray(tar_member(b"b", B))
    broken[0] ^= 1
    out = look(tar_member(b"a", A) + bytes(broken) + tar_member(b"c", b"C"))
    assert out.contents == [A, b"C"] and out.unread == [(b"", Why.DAMAGED)]
    first = opened(Tar(), bytes(broken) + tar_member(b"c", b"C"))
    assert sniffs(Tar(), bytes(broken)) and first.contents == [b"C"] and first.unread


def test_entries_without_bytes_are_no_members_with_any_claimed_size() -> None:
    data = b""
    for kind in b"1 2 3 4 5 6".split():
        data += tar_header(b"link", 0, kind) + tar_header(b"liar", 777, kind)
    data += tar_header(b"old/", 0, b"\0", magic=b"") + tar_header(b"V", 0, b"V")
    assert look(data + tar_member(b"a", A) + TAR_END).members == [(b"a", A)]


def test_bytes_behind_a_link_are_a_member() -> None:
    """Archives that store linked files twice have bytes behind the link."""
    data = tar_member(b"a", A) + tar_member(b"link", B, b"1") + tar_member(b"c", b"C")
    assert look(data).members == [(b"a", A), (b"link", B), (b"c", b"C")]


def test_kinds_that_nobody_knows_are_files() -> None:
    data = tar_member(b"a", A, b"7") + tar_member(b"b", B, b"Q") + tar_member(b"d", b"D", b"D")
    assert look(data).contents == [A, B, b"D"]


def test_a_file_from_another_volume_is_unread_and_its_part_is_listed() -> None:
    out = look(tar_member(b"a", A, b"M") + tar_member(b"b", B))
    assert out.contents == [A, B] and out.unread == [(b"a", Why.UNSUPPORTED)]


def test_pax_fields_rule_over_the_header() -> None:
    size = b"%d" % len(A)
    lying = tar_header(b"a", 1) + A + bytes(-len(A) % 512)
    data = pax({b"size": size, b"path": b"named"}) + lying + tar_member(b"b", B)
    assert look(data).members == [(b"named", A[:1]), (b"named", A), (b"b", B)]
    padded = pax({b"size": size.zfill(18)}) + tar_member(b"a", A) + tar_member(b"b", B)
    assert (look(padded).contents, look(padded).unread) == ([A, B], [])
    everywhere = pax({b"path": b"global"}, b"g") + tar_member(b"a", A) + tar_member(b"b", B)
    assert look(everywhere).names == [b"global"] * 2


def test_pax_headers_that_are_damaged_or_huge_are_unread() -> None:
    for text in (b"99 path=x\n", b"path=x\n", b"11 size=x\n", b"0 a=b\n"):
        out = look(tar_member(b"x", text, b"x") + tar_member(b"a", A) + TAR_END)
        assert out.reasons == {Why.DAMAGED}
    for size in (b"-1", b"%019d" % len(A), b"9" * 19):
        invalid = pax({b"size": size}) + tar_member(b"a", A)
        assert look(invalid).unread == [(b"a", Why.DAMAGED)]
    huge = tar_member(b"x", bytes(MAX_EXTENDED_BYTES + 1), b"x") + tar_member(b"a", A)
    out = opened(Tar(), huge)
    assert out.contents == [A] and out.reasons == {Why.LIMIT}


def test_a_cut_within_a_member_is_unread_though_nobody_reads_it() -> None:
    data = tar_member(b"a", A)[:1000]
    assert look(data).unread[0] == (b"a", Why.DAMAGED)
    whole = Whole(tar_member(b"a", bytes(100_000))[:50_000])
    assert [type(found).__name__ for found in each(Tar(), whole)] == ["Member", "Unlisted"]
    assert whole.given < 10_000


def test_names_are_as_they_stand() -> None:
    names = [b"../up", b"/abs", b"\xff\xfe", b"same", b"same", b"-x"]
    data = b"".join(tar_member(name, b"%d" % n) for n, name in enumerate(names))
    assert look(data).names == names
    long = tar_member(b"././@LongLink", b"n" * 100_000 + b"\0", b"L") + tar_member(b"a", A)
    assert look(long).names[1:] == [b"n" * (64 << 10)]


@pytest.mark.parametrize("kind", [b"L", b"K"])
def test_the_content_of_a_long_name_that_can_be_no_name_is_a_member_as_well(kind: bytes) -> None:
    for content in (b"two\nlines", b"before\0behind", b"n" * 5_000):
        data = tar_member(b"././@LongLink", content, kind) + tar_member(b"a", A)
        assert look(data).contents == [content, A]
    data = tar_member(b"././@LongLink", b"n" * 200 + bytes(9), kind) + tar_member(b"a", A)
    assert look(data).contents == [A]


def test_the_text_of_a_pax_header_of_solaris_is_a_member_as_well() -> None:
    text = b"19 path=another/name\n"
    text = b"%d%s" % (len(text), text[2:])
    data = tar_member(b"PaxHeaders/a", text, b"X") + tar_member(b"a", A)
    out = look(data)
    assert (out.contents, out.names) == ([text, A], [b"PaxHeaders/a", b"another/name"])
    assert not out.unread
    plain = tar_member(b"PaxHeaders/a", text, b"x") + tar_member(b"a", A)
    assert look(plain).contents == [A]


def test_members_are_passed_over_where_that_can_be() -> None:
    data = tar_of({f"{n}": bytes(200_000) for n in range(20)})
    whole = Whole(data)
    assert len(list(each(Tar(), whole))) == 20
    assert whole.given < 200_000


def test_ordinary_blocks_are_no_headers() -> None:
    chance = random.Random(1)
    blocks = [bytes(512), b" " * 512, b"0" * 512, b"\xff" * 512, b"0000000\0" * 64]
    blocks += [bytes(chance.choices(b"01234567 \0", k=512)) for _ in range(2000)]
    assert not any(map(is_header, blocks))


# Readings in which programs differ


@pytest.mark.parametrize("blank", [b"\t", b"\n", b"\v", b"\r"])
def test_numbers_may_stand_between_any_blanks(blank: bytes) -> None:
    for field in (blank + b"%o\0", b"%08o" + blank, blank + b"%o" + blank):
        size_field = (field % len(A)).ljust(12, b"\0")
        data = tar_header(b"a", 0, size_field=size_field, magic=b"") + A + bytes(-len(A) % 512)
        assert look(data + tar_member(b"b", B)).contents == [A, B]
        head = tar_header(b"a", len(B), magic=b"")
        total = sum(head[:148]) + sum(head[156:]) + 8 * 0x20
        head = head[:148] + (field % total).ljust(8, b"\0")[:8] + head[156:]
        assert has_mark(head)
        assert look(head + B.ljust(512, b"\0")).contents == [B]


def test_a_size_behind_a_zero_byte_counts_as_for_gnu_tar() -> None:
    lying = tar_header(b"a", 0, size_field=b"\0%010o\0" % len(A))
    assert look(lying + A + bytes(-len(A) % 512) + tar_member(b"b", B)).contents == [A, B]


@pytest.mark.parametrize(
    "front",
    [bytes(512), bytes(10_240), b"F" * 512, b"#!/bin/sh\n".ljust(512), b"#!/bin/sh\n" * 1024],
    ids=["zero", "many zeros", "foreign", "script", "long script"],
)
def test_an_archive_may_begin_behind_other_blocks(front: bytes) -> None:
    data = front + tar_member(b"a", A) + TAR_END
    head = data[:ISO_HEAD_BYTES]
    assert has_mark(head)
    assert [expander.name for expander in Registry().pick(head, data)] == ["tar"]
    assert opened(Tar(), data).contents == [A]
    assert not has_mark(front) and not has_mark(front + front)


def test_two_pax_headers_before_a_member_are_unread_where_they_differ_by_more_than_a_name() -> None:
    size, path = pax({b"size": b"%d" % len(A)}), pax({b"path": b"named"})
    for headers in (size + path, path + size, size + pax({b"size": b"3"})):
        out = look(headers + tar_member(b"a", A) + tar_member(b"b", B))
        assert (b"b", B) in out.members and (b"named" in out.names or headers[:512] == size[:512])
        assert Why.DAMAGED in out.reasons
    named = look(pax({b"path": b"other"}) + path + tar_member(b"a", A))
    assert named.members == [(b"named", A)] and not named.unread


def test_a_size_for_all_members_or_other_than_that_of_the_header_is_unread() -> None:
    """busybox uses the size in the member's header. Python and GNU tar use the global pax size."""
    other = pax({b"size": b"3"}) + tar_member(b"a", A)
    assert (b"a", Why.DAMAGED) in look(other + tar_member(b"b", B)).unread
    everywhere = pax({b"size": b"%d" % len(A)}, b"g")
    out = look(everywhere + tar_member(b"a", A) + tar_member(b"b", A))
    assert out.contents == [A, A] and not out.unread
    assert (b"b", Why.DAMAGED) in look(everywhere + tar_member(b"b", B)).unread


def test_of_two_sizes_the_other_one_counts_as_well_up_to_a_piece() -> None:
    """If the other size is larger, the rest is only unread, and no further member is listed."""
    for other in (1, forward.PIECE_BYTES, forward.PIECE_BYTES + 1, forward.PIECE_BYTES << 1):
        content = bytes(other)
        data = pax({b"size": b"512"}) + tar_header(b"a", other) + content + bytes(-other % 512)
        found = [*each(Tar(), Whole(data + tar_member(b"b", B)))]
        sizes = [one.size for one in found if isinstance(one, Member) and one.name == b"a"]
        assert sizes == ([other] if other <= forward.PIECE_BYTES else []) + [512]
        unread = [(one.name, one.why) for one in found if isinstance(one, Unlisted)]
        assert unread == [(b"a", Why.DAMAGED)]


@pytest.mark.parametrize("claim", [0, 0o77777777777, (9 << 30) & 0o77777777777])
def test_a_size_that_no_header_holds_is_one_reading(claim: int) -> None:
    data = pax({b"size": b"%d" % (9 << 30)}) + tar_header(b"a", claim)
    found = list(itertools.islice(Tar().members(Whole(data)), 1))
    assert [type(one) for one in found] == [list]


@pytest.mark.parametrize("kind", ["0", "3", "4", "6"])
def test_a_header_where_some_programs_take_bytes_is_read_and_unread(kind: str) -> None:
    name = b"a/" if kind == "0" else b"a"
    data = tar_member(name, tar_member(b"inner", A), kind.encode()) + tar_member(b"b", B)
    out = look(data)
    assert out.contents == [A, B] and out.unread == [(name, Why.DAMAGED)]
    assert look(tar_member(name, A, kind.encode()) + tar_member(b"b", B)).contents == [A, B]


def test_the_label_of_a_volume_may_have_bytes() -> None:
    assert look(tar_member(b"a", A, b"V") + tar_member(b"b", B)).contents == [A, B]
    inner = tar_member(b"inner", B)
    assert look(tar_member(b"a", inner, b"V")).contents == [inner]


def test_a_name_and_a_length_alone_make_no_member_sparse() -> None:
    fields = {b"GNU.sparse.realsize": b"%d" % len(A), b"GNU.sparse.name": b"named"}
    assert look(pax(fields) + tar_member(b"a", A)).members == [(b"named", A)]


@pytest.mark.parametrize("name", [b"GNU.sparse.realsize", b"SCHILY.realsize"])
def test_a_larger_size_alone_adds_zeros(name: bytes) -> None:
    """bsdtar, GNU tar and Python add the zeros; 7-Zip and busybox do not."""
    member = tar_member(b"a", A) + tar_member(b"b", B)
    out = look(pax({name: b"%d" % (len(A) + 700)}) + member)
    assert (out.contents, out.unread) == ([A, A + bytes(700), B], [])
    assert look(pax({name: b"%d" % len(A)}) + member).contents == [A, B]
    for size in (b"3", b"x"):
        out = look(pax({name: size}) + member)
        assert {A, B} <= set(out.contents) and out.unread == [(b"a", Why.DAMAGED)]


@pytest.mark.parametrize("program", ["tar", "bsdtar", "busybox"])
def test_what_programs_extract_is_found_or_unread(program: str, tmp_path: Path) -> None:
    if shutil.which(program) is None:
        pytest.skip(f"no {program}")
    size, end = b"%d" % len(A), TAR_END
    tab = tar_header(b"a", 0, size_field=b"\t%010o\0" % len(A)) + A + bytes(-len(A) % 512)
    samples = [
        pax({b"size": b"3"}) + pax({b"path": b"n"}) + tar_member(b"a", A),
        pax({b"size": size}, b"g") + tar_member(b"a", A[:8]) + tar_member(b"c", A[:9]),
        pax({b"size": b"3"}) + tar_member(b"a", A),
        tab,
        bytes(512) + tar_member(b"a", A),
        tar_member(b"a/", A),
        tar_member(b"a/", tar_member(b"inner", A)),
        tar_member(b"a", A, b"V"),
        tar_member(b"a", A) + end + tar_member(b"c", B),
    ]
    for number, sample in enumerate(samples):
        data = sample + tar_member(b"b", B) + end
        place = tmp_path / str(number)
        place.mkdir()
        (tmp_path / "x.tar").write_bytes(data)
        command = [*("busybox tar" if program == "busybox" else program).split(), "-xf"]
        done = subprocess.run(
            [*command, tmp_path / "x.tar"], check=False, cwd=place, capture_output=True
        )
        if done.returncode:
            continue
        found = opened(Tar(), data)
        given = [path.read_bytes() for path in place.rglob("*") if path.is_file()]
        assert found.unread or {one for one in given if one} <= set(found.contents), number


# Sparse


def sparse_file(path: Path) -> bytes:
    content = bytearray(3_000_000)
    for number in range(40):
        content[number * 70_000 : number * 70_000 + 900] = b"%03d" % number * 300
    with path.open("wb") as file:
        file.truncate(len(content))
        for number in range(40):
            file.seek(number * 70_000)
            file.write(content[number * 70_000 : number * 70_000 + 900])
    return bytes(content)


@pytest.mark.skipif(GNU_TAR is None, reason="no tar")
@pytest.mark.parametrize("form", ["gnu", "0.0", "0.1", "1.0"])
def test_gnu_tar_agrees_about_sparse_members(tmp_path: Path, form: str) -> None:
    content = sparse_file(tmp_path / "sparse")
    (tmp_path / "plain").write_bytes(A)
    options = ["--format=gnu"] if form == "gnu" else ["--format=pax", f"--sparse-version={form}"]
    made = subprocess.run(
        ["tar", "-cS", *options, "sparse", "plain"], cwd=tmp_path, check=True, capture_output=True
    ).stdout
    if len(made) > len(content):
        pytest.skip("the file system keeps no holes")
    out = look(made)
    assert out.members[1:] == [(b"sparse", content), (b"plain", A)]
    assert out.listed[1].size == len(content)
    pieces = b"".join(content[at : at + 900] for at in range(0, 40 * 70_000, 70_000))
    assert pieces[:900] in out.contents[0]


STORED = (b"stored " * 90)[:512]
SPARSE = {
    "0.1": ({b"GNU.sparse.map": b"0,8,100,504", b"GNU.sparse.size": b"700"}, STORED),
    "1.0": (
        {b"GNU.sparse.major": b"1", b"GNU.sparse.minor": b"0", b"GNU.sparse.realsize": b"700"},
        b"2\n0\n8\n100\n504\n".ljust(512, b"\0") + STORED,
    ),
}


@pytest.mark.parametrize("form", SPARSE)
def test_a_sparse_member_counts_as_it_is_stored_as_well(form: str) -> None:
    fields, stored = SPARSE[form]
    out = look(pax(fields) + tar_member(b"a", stored) + tar_member(b"b", B))
    assert out.contents == [stored, STORED[:8] + bytes(92) + STORED[8:] + bytes(96), B]
    assert not out.unread
    sizes = [(one.size, one.is_exact) for one in out.listed]
    assert sizes == [(len(stored), False), (700, True), (len(B), True)]
    whole = pax({b"GNU.sparse.map": b"0,512", b"GNU.sparse.size": b"512"})
    assert look(whole + tar_member(b"a", STORED)).contents == [STORED]


@pytest.mark.parametrize("program", ["7z", "busybox"])
def test_some_programs_extract_a_sparse_member_as_it_is_stored(
    program: str, tmp_path: Path
) -> None:
    if shutil.which(program) is None:
        pytest.skip(f"no {program}")
    command = {"7z": "7z x -y a.tar", "busybox": "busybox tar -xf a.tar"}[program].split()
    fields, stored = SPARSE["1.0"]
    (tmp_path / "a.tar").write_bytes(pax(fields) + tar_member(b"a", stored) + TAR_END)
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    assert (tmp_path / "a").read_bytes() == stored


def test_a_long_sparse_member_of_a_stream_is_unread_because_it_counts_in_two_ways(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(forward, "MAX_AHEAD_BYTES", 100)
    fields, stored = SPARSE["0.1"]
    data = pax(fields) + tar_member(b"a", stored) + tar_member(b"b", B)
    assert opened(Tar(), data).contents[0] == stored and not opened(Tar(), data).unread
    out = opened(Tar(), Once(data, 700))
    assert len(out.contents) == 2 and out.unread == [(b"a", Why.LIMIT)]


@pytest.mark.parametrize(
    "text", ["5,1,0,1", "0,5", "0,5,3,5", "0,999999", "0", "x,y", "0,8,9", "90,8"], ids=str
)
def test_a_sparse_map_that_does_not_fit_is_unread(text: str) -> None:
    fields = {b"GNU.sparse.map": text.encode(), b"GNU.sparse.size": b"50"}
    out = look(pax(fields) + tar_member(b"a", B) + tar_member(b"b", B))
    assert {*out.contents} == {B} and out.unread == [(b"a", Why.DAMAGED)]


def test_a_sparse_map_without_end_is_unread() -> None:
    many = b",".join([b"0"] * (2 * tarsparse.MAX_PIECES + 2))
    fields = {b"GNU.sparse.map": many, b"GNU.sparse.size": b"50"}
    assert opened(Tar(), pax(fields) + tar_member(b"a", B)).reasons == {Why.LIMIT}
    claims = {b"GNU.sparse.major": b"1", b"GNU.sparse.minor": b"0", b"GNU.sparse.realsize": b"9"}
    lines = b"999999999\n".ljust(512, b"\0")
    assert opened(Tar(), pax(claims) + tar_member(b"a", lines)).reasons == {Why.LIMIT}
    assert opened(Tar(), pax(claims) + tar_member(b"a", b"1" * 600)).reasons == {Why.DAMAGED}


def test_a_sparse_member_of_nothing_but_a_hole_comes_in_pieces() -> None:
    fields = {b"GNU.sparse.map": b"", b"GNU.sparse.size": b"999999999999"}
    for found in each(Tar(), Whole(pax(fields) + tar_member(b"a", b""))):
        assert isinstance(found, Member) and found.size == 999999999999
        pieces = found.chunks()
        assert next(pieces) == next(pieces) == bytes(256 << 10)


def test_the_generator_makes_what_python_reads() -> None:
    data = archives.tar_member(b"a", A) + archives.TAR_END
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        assert archive.getnames() == ["a"]


def test_a_pax_header_has_8_mib_at_most() -> None:
    most = 8 << 20
    for size, reason in ((most, Why.DAMAGED), (most + 1, Why.LIMIT)):
        whole = Whole(tar_header(b"x", size, b"x"))
        whole.size = 16 << 20  # the bytes of the header are missing
        assert opened(Tar(), whole).unread[0] == (b"x", reason)


@pytest.mark.parametrize(("length", "is_member"), [(4_096, False), (4_097, True)])
def test_a_long_name_is_a_member_if_it_is_longer_than_any_path(
    length: int, *, is_member: bool
) -> None:
    name = b"n" * length
    out = look(tar_member(b"././@LongLink", name, b"L") + tar_member(b"a", A))
    assert out.members == [(b"././@LongLink", name)] * is_member + [(name, A)]


@pytest.mark.parametrize(("length", "is_read"), [(4_096, True), (4_097, False)])
def test_fields_for_all_members_are_as_long_as_a_path(length: int, *, is_read: bool) -> None:
    fields = {b"path": b"n" * (length - 1), b"size": b"4"}
    out = look(pax(fields, b"g") + tar_member(b"a", b"four") + tar_member(b"b", b"more"))
    assert out.names == [b"n" * (length - 1) if is_read else name for name in (b"a", b"b")]
    assert out.unread == [] if is_read else [(b"PaxHeaders/x", Why.LIMIT)]


def test_a_pax_header_of_solaris_without_text_is_no_member() -> None:
    assert look(tar_member(b"x", b"", b"X") + tar_member(b"a", A)).members == [(b"a", A)]


def test_each_size_in_front_of_a_member_counts() -> None:
    """Programs disagree which of several pax headers they use."""
    for first in (b"5", b"x", b"-5", b"5" * 19, b"0"):
        sizes = pax({b"size": first}) + pax({b"size": b"%d" % len(A)})
        out = look(sizes + tar_member(b"a", A) + tar_member(b"b", B))
        assert out.contents == [A[:5]] * (first == b"5") + [A, B]
        assert out.unread == [(b"a", Why.DAMAGED)]


@pytest.mark.parametrize(
    ("kind", "name"), [(b"1", b"a"), (b"2", b"a"), (b"5", b"a"), (b"\0", b"a/")]
)
def test_a_size_of_a_member_without_bytes_is_ignored_by_all_programs(
    kind: bytes, name: bytes
) -> None:
    out = look(tar_header(name, 777, kind) + tar_member(b"b", B) + TAR_END)
    assert (out.members, out.unread) == ([(b"b", B)], [])


def test_the_largest_size_of_a_header_is_no_size_that_is_too_large_for_it() -> None:
    most = 0o77777777777
    for size, count in ((most, 1), (most + 1, 0)):
        data = pax({b"size": b"%d" % size}) + tar_header(b"a", 0)
        found = [isinstance(one, Unlisted) for one in each(Tar(), Whole(data))]
        assert found.index(False) == count


def test_a_member_has_the_offset_of_its_header() -> None:
    before = tar_member(b"a", A) + pax({b"path": b"named"})
    data = before + tar_member(b"b", B) + tar_member(b"d/", b"", b"5") + tar_member(b"c", b"C")
    at = len(before)
    assert [one.offset for one in look(data).listed] == [0, at, at + 3 * 512]


def test_fields_of_one_member_rule_over_those_of_all_members() -> None:
    data = pax({b"path": b"all"}, b"g") + pax({b"path": b"own"}) + tar_member(b"a", A)
    assert look(data + tar_member(b"b", B)).members == [(b"own", A), (b"all", B)]
