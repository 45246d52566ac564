"""Files of digests: every accepted format, and the error for a line in no accepted format."""

from __future__ import annotations

import hashlib
import io
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest

from hashclient.core.errors import UsageError
from hashclient.lists.importers import importfile
from hashclient.lists.importers.registry import read_digests
from hashclient.lists.importers.rows import DigestBatch, digests_of_arguments
from hashclient.lists.wire import NO_SIZE
from tests.streams import Endless

MD5 = hashlib.md5(b"benign").hexdigest()
SHA1 = hashlib.sha1(b"benign").hexdigest()
SHA256 = hashlib.sha256(b"benign").hexdigest()


def read(content: bytes) -> list[DigestBatch]:
    return list(read_digests(io.BytesIO(content), "list.txt"))


def rows(content: bytes) -> list[tuple[int, str | None, dict[str, str], int | None]]:
    """Return the line number, name, digests and size of each row."""
    result = []
    for batch in read(content):
        digests: list[dict[str, str]] = [{} for _ in range(batch.count)]
        for algorithm, (values, at) in batch.digests.items():
            for value, row in zip(values, at, strict=True):
                digests[row][algorithm.label] = value.tobytes().hex()
        sizes = [None if s == NO_SIZE else int(s) for s in batch.sizes]
        lines = [int(line) for line in batch.lines]
        result += list(zip(lines, batch.names, digests, sizes, strict=True))
    return result


@pytest.mark.parametrize(
    ("digits", "label"), [(MD5, "md5"), (SHA1.upper(), "sha1"), (SHA256, "sha256")]
)
@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
def test_bare_digests_are_recognised_by_their_length(digits: str, label: str, end: bytes) -> None:
    content = (digits.encode() + end) * 3
    expected = {label: digits.lower()}
    assert rows(content) == [(n, None, expected, None) for n in (1, 2, 3)]


def test_the_last_line_needs_no_end() -> None:
    assert rows(MD5.encode()) == [(1, None, {"md5": MD5}, None)]


def test_a_file_that_is_cut_short_while_it_is_read_is_refused(tmp_path: Path) -> None:
    """If the cut were accepted, nobody would look up the lines behind it."""
    path = tmp_path / "digests"
    line = f"{SHA256}\n".encode()
    path.write_bytes(line * 40_000)
    with path.open("rb") as stream:
        batches = read_digests(stream, "digests")
        first = next(batches)
        os.truncate(path, 30_000 * len(line))
        with pytest.raises(UsageError, match=r"digests ended 650,000 bytes before its size"):
            list(batches)
    assert 0 < first.count < 30_000
    # Reading starts at the current position of the stream and ends where the file ends by then.
    with path.open("rb") as stream:
        stream.seek(20_000 * len(line))
        batches = read_digests(stream, "digests")
        first = next(batches)
        with path.open("ab") as more:
            more.write(line * 10_000)
        assert first.count + sum(batch.count for batch in batches) == 20_000


def test_comments_blank_lines_and_a_byte_order_mark_are_passed_over() -> None:
    content = f"\ufeff# made today\n\n{MD5}\n  \r\n# more\n{SHA256}  \n"
    assert rows(content.encode()) == [
        (3, None, {"md5": MD5}, None),
        (6, None, {"sha256": SHA256}, None),
    ]


@pytest.mark.parametrize("content", [b"", b"\n\n", b"# nothing\n", b"\xef\xbb\xbf"])
def test_a_file_without_rows_gives_no_batch(content: bytes) -> None:
    assert read(content) == []


@pytest.mark.parametrize(
    ("line", "name", "digests"),
    [
        (f"{MD5}  a b.jpg", "a b.jpg", {"md5": MD5}),
        (f"{SHA1} *a.jpg", "a.jpg", {"sha1": SHA1}),
        (f"{SHA256}   two spaces", " two spaces", {"sha256": SHA256}),
        (rf"\{MD5}  a\nb\\c\rd", "a\nb\\c\rd", {"md5": MD5}),
        (f"{MD5}  md5,sha1", "md5,sha1", {"md5": MD5}),
        (f"MD5 (a (1).jpg) = {MD5}", "a (1).jpg", {"md5": MD5}),
        (rf"\SHA256 (a\nb) = {SHA256}", "a\nb", {"sha256": SHA256}),
        (f"SHA1(openssl.bin)= {SHA1}", "openssl.bin", {"sha1": SHA1}),
        (f"SHA2-256(openssl.bin)= {SHA256}", "openssl.bin", {"sha256": SHA256}),
    ],
)
def test_lines_of_sum_files(line: str, name: str, digests: dict[str, str]) -> None:
    assert rows(f"{line}\n".encode()) == [(1, name, digests, None)]


def test_kinds_of_lines_may_be_mixed() -> None:
    content = f"{MD5}\n{SHA1}  one\nSHA256 (two) = {SHA256}\n"
    assert rows(content.encode()) == [
        (1, None, {"md5": MD5}, None),
        (2, "one", {"sha1": SHA1}, None),
        (3, "two", {"sha256": SHA256}, None),
    ]


@pytest.mark.parametrize("tool", ["md5sum", "sha1sum", "sha256sum"])
@pytest.mark.parametrize("options", [(), ("--tag",), ("--binary",)])
def test_output_of_the_real_tools_is_read(
    tool: str, options: tuple[str, ...], tmp_path: Path
) -> None:
    names = [b"plain.txt", b"with space", b"back\\slash", b"new\nline", b"not utf-8 \xff"]
    for name in names:
        Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + name)).write_bytes(name)
    done = subprocess.run(
        [tool, *options, *names], cwd=tmp_path, stdout=subprocess.PIPE, check=True
    )
    label = tool.removesuffix("sum")
    got = [(name, digests) for _, name, digests, _ in rows(done.stdout)]
    assert got == [
        (os.fsdecode(name), {label: hashlib.new(label, name).hexdigest()}) for name in names
    ]


HASHDEEP = "%%%% HASHDEEP-1.0\n%%%% size,md5,tiger,sha256,filename\n## Invoked from: /\n##\n"


def test_hashdeep_reads_known_columns_and_sizes() -> None:
    content = f"{HASHDEEP}6,{MD5},{'0' * 48},{SHA256},/srv/a,b.jpg\r\n"
    assert rows(content.encode()) == [(5, "/srv/a,b.jpg", {"md5": MD5, "sha256": SHA256}, 6)]


@pytest.mark.parametrize(
    ("content", "line", "what"),
    [
        ("%%%% HASHDEEP-1.0\n6,x,y\n", 2, "no hashdeep header"),
        ("%%%% HASHDEEP-1.0\n%%%% size,tiger,filename\n", 2, "not a hashdeep header"),
        ("%%%% HASHDEEP-1.0\n%%%% md5,filename\n", 2, "not a hashdeep header"),
        (f"{HASHDEEP}6,{MD5},,{SHA256}\n", 5, "not a row"),
        (f"{HASHDEEP}big,{MD5},,{SHA256},name\n", 5, "not a row"),
        (f"{HASHDEEP}6,{MD5[1:]},,{SHA256},name\n", 5, "not a md5 digest"),
    ],
)
def test_a_bad_line_of_hashdeep_is_named(content: str, line: int, what: str) -> None:
    with pytest.raises(UsageError, match=f"^list.txt:{line}: {what}"):
        read(content.encode())


def test_csv_columns_may_be_any_and_in_any_order() -> None:
    content = (
        "SHA256, size ,entry_id,md5,category,added\n"
        f'{SHA256},6,e-1,,"baseline",2024-05-01\n'
        "\r\n"
        f",,,{MD5.upper()},,2024-05-01T12:00:00.250+02:00\r\n"
    )
    assert rows(content.encode()) == [
        (2, None, {"sha256": SHA256}, 6),
        (4, None, {"md5": MD5}, None),
    ]
    (batch,) = read(content.encode())
    assert batch.entry_ids == ["e-1", None]
    assert batch.categories == ["baseline", None]
    assert batch.added is not None
    assert [str(t) for t in batch.added] == ["2024-05-01T00:00:00.000", "2024-05-01T10:00:00.250"]


def test_csv_times_without_a_zone_are_utc_and_may_be_missing() -> None:
    (batch,) = read(f"md5,added\n{MD5},2024-05-01 06:00:00\n{MD5},\n".encode())
    assert batch.added is not None
    assert [str(t) for t in batch.added] == ["2024-05-01T06:00:00.000", "NaT"]
    assert (batch.entry_ids, batch.categories) == (None, None)


def test_csv_of_a_header_alone_has_no_rows() -> None:
    assert read(b"md5,size\n\n") == []


@pytest.mark.parametrize(
    ("content", "line", "what"),
    [
        ("md5,name\n", 1, r"column 2 \(name\) of the header is unknown"),
        (f"md5,{SHA1}\n", 1, "column 2 of the header is unknown"),
        ("md5,MD5\n", 1, "a column occurs twice"),
        ("entry_id,size\n", 1, "the header names no md5"),
        (f"md5,size\n{MD5},1\n\n{MD5},1,2\n", 4, "not 2 cells"),
        (f"md5,size\n{MD5},1\n{MD5[1:]}z,1\n", 3, "not a md5 digest"),
        (f"md5,size\n{MD5},1\n{MD5[2:]},1\n", 3, "not a md5 digest"),
        (f"md5,sha1\n{MD5},\n,{'ab ' * 13}c\n", 3, "not a sha1 digest"),
        (f"md5,size\n{MD5},1\n,1\n", 3, "a row without a digest"),
        (f"md5,size\n{MD5},1\n{MD5},-1\n", 3, "not a size"),
        (f"md5,size\n{MD5},1\n{MD5},{10**18}\n", 3, "not a size"),
        (f"md5,added\n{MD5},\n{MD5},2024-05-01\n{MD5},May\n", 4, "not a date"),
        (f"md5,added\n{MD5},1\n{MD5},2024-05-01\n{MD5},2024-05-01\n", 2, "not a date"),
        (f"md5,category\n{MD5},\udcff\n", 2, "this line, or one of the next, is not CSV"),
        (f'md5,category\n{MD5},"a\nb"\n', 2, "from here on, a quoted cell holds a line break"),
    ],
)
def test_a_bad_line_of_csv_is_named(content: str, line: int, what: str) -> None:
    with pytest.raises(UsageError, match=f"^list.txt:{line}: {what}") as caught:
        read(os.fsencode(content))
    assert "accepted are" in (caught.value.hint or "")
    for digits in (MD5, MD5[2:], SHA1):
        assert digits not in caught.value.message


@pytest.mark.parametrize(
    ("content", "line", "what"),
    [
        (f"{MD5}\nabcdef\n", 2, "no digest has 6"),
        (f"{SHA256 * 2}  sha512.bin\n", 1, "no digest has 128"),
        (f"{MD5}\n{MD5} name\n", 2, "not a line of a file of digests"),
        (f"{MD5}\n{MD5[:-1]}z\n", 2, "not a line"),
        (f"{MD5}\n{MD5[:14]}  {MD5[:16]}\n", 2, "no digest has 14"),
        (f"{MD5}\n{MD5[:14]}\t\t{MD5[:16]}\n", 2, "not a line"),
        (f"{MD5}\n{MD5}{MD5[:2]}\n{MD5[2:]}\n", 2, "no digest has 34"),
        (f"SHA1 (a) = {MD5}\n", 1, "the digest does not have the length"),
        (rf"\{MD5}  a\tb", 1, "an unknown escape"),
        ("<html>\n", 1, "not a line"),
        ("\x01\x02", 1, "not a line"),
    ],
)
def test_a_bad_line_of_a_sum_file_is_named(content: str, line: int, what: str) -> None:
    with pytest.raises(UsageError, match=f"^list.txt:{line}: {what}") as caught:
        read(content.encode())
    assert MD5[:10] not in caught.value.message


@pytest.mark.parametrize(
    "content",
    [
        b"x" * (importfile.MAX_LINE_BYTES + 1) + b"\n" + MD5.encode(),
        b"x" * (importfile.MAX_LINE_BYTES + 1),
        b"md5\n" + b"a" * (importfile.MAX_LINE_BYTES + 1) + b"\n",
    ],
)
def test_a_line_that_does_not_end_is_refused(content: bytes) -> None:
    with pytest.raises(UsageError, match="a line of more than 65536 bytes"):
        read(content)


def test_lines_that_end_differently_are_read_one_by_one() -> None:
    """The reader must not assume that each line has the length of the first line."""
    mixed = f"{MD5}\r\n{MD5}\n{SHA1}\r\n{MD5}\n"
    assert [(line, digests) for line, _, digests, _ in rows(mixed.encode())] == [
        (1, {"md5": MD5}),
        (2, {"md5": MD5}),
        (3, {"sha1": SHA1}),
        (4, {"md5": MD5}),
    ]
    # This line is as long as the first line, but has no digest.
    with pytest.raises(UsageError, match=r"^list\.txt:2: no digest has 33"):
        read(f"{MD5}\r\n{MD5}0\n{MD5}\r\n".encode())
    # The length of the file is a multiple of the length of the first line.
    with pytest.raises(UsageError, match=r"^list\.txt:2: no digest has 31"):
        read(f"{MD5}\n{MD5[:-1]}\r\n{MD5}\n".encode())
    content = f"md5,size\n{MD5},1\r\n{MD5},2\n\r\n\n{MD5},3".encode()
    assert [(line, size) for line, _, _, size in rows(content)] == [(2, 1), (3, 2), (6, 3)]


@pytest.mark.parametrize("start", ["", f"{MD5}\n", "md5,size\n", f"md5,size\n{MD5},1\n", HASHDEEP])
@pytest.mark.parametrize("byte", [b"a", b"\0", b"#", b","])
def test_a_line_that_never_ends_is_refused_within_bounds(start: str, byte: bytes) -> None:
    """`lookup --from /dev/zero` or an endless pipe is refused as soon as a line is too long."""
    stream = Endless(start.encode(), byte)
    with pytest.raises(UsageError, match="a line of more than 65536 bytes"):
        list(read_digests(stream, "list.txt"))  # type: ignore[arg-type]  # it has what is used
    assert stream.given <= 2 * importfile.CHUNK_BYTES


def test_batches_are_bounded_and_lines_numbered_through(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importfile, "CHUNK_BYTES", 1000)
    content = (MD5.encode() + b"\n") * 500 + SHA1.encode() + b"  last\n"
    batches = read(content)
    assert max(batch.count for batch in batches) <= 1000 // 33 + 1
    lines = np.concatenate([batch.lines for batch in batches])
    assert lines.tolist() == list(range(1, 502))


def test_csv_lines_are_numbered_through_over_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importfile, "CHUNK_BYTES", 700)
    content = "md5,size\n" + f"{MD5},1\n\n" * 100 + f"{MD5},x\n"
    with pytest.raises(UsageError, match=r"^list\.txt:202: not a size"):
        read(content.encode())
    lines = [line for line, *_ in rows(content[: content.rindex(MD5)].encode())]
    assert lines == list(range(2, 202, 2))


def test_a_file_that_cannot_be_read_is_a_usage_error() -> None:
    # The kernel can open this file, but reading it at address 0 fails.
    with (
        Path("/proc/self/mem").open("rb") as stream,
        pytest.raises(UsageError, match="cannot read it: Input/output error"),
    ):
        list(read_digests(stream, "it"))


FORMS = {
    "bare": ([MD5, SHA1], ""),
    "sum": ([f"{MD5}  one", f"{SHA1} *two"], ""),
    "tag": ([f"MD5 (one) = {MD5}", f"SHA1(two)= {SHA1}"], ""),
    "hashdeep": ([f"1,{MD5},one", f"2,{MD5},two"], "%%%% HASHDEEP-1.0\n%%%% size,md5,filename\n"),
    "csv": ([f"{MD5},one", f"{MD5},two"], "md5,category\n"),
    "csv, one column": ([MD5, MD5], "md5\n"),
}
each_form = pytest.mark.parametrize(("lines", "head"), FORMS.values(), ids=FORMS)


@each_form
@pytest.mark.parametrize("end", ["\r", "\r\n", "\n", "\r\r\n"], ids=ascii)
def test_each_of_the_usual_ends_ends_a_line(lines: list[str], head: str, end: str) -> None:
    expected = rows("".join(f"{line}\n" for line in lines).join([head, ""]).encode())
    assert len(expected) == 2
    content = (head + "".join(f"{line}\n" for line in lines)).replace("\n", end)
    assert [row[1:] for row in rows(content.encode())] == [row[1:] for row in expected]
    # The last line may lack its line end.
    assert len(rows(content.removesuffix(end).encode())) == 2


@pytest.mark.parametrize("size", range(1, 12))
def test_an_end_of_two_characters_may_fall_between_two_blocks(
    monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    monkeypatch.setattr(importfile, "CHUNK_BYTES", size)
    content = f"{MD5}\r\n\r{SHA1}  a\r\r\n\n{MD5} *b\r"
    assert [(line, name) for line, name, *_ in rows(content.encode())] == [
        (1, None),
        (3, "a"),
        (6, "b"),
    ]


@each_form
@pytest.mark.parametrize(
    "between", [*"\0\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029", b"\x85", " "], ids=ascii
)
def test_two_rows_on_one_line_are_refused(
    lines: list[str], head: str, between: str | bytes
) -> None:
    """If two rows were read as one, the second digest would be part of a name and overlooked."""
    if isinstance(between, str):
        between = between.encode()
    first, second = (line.encode() for line in lines)
    content = head.encode() + b"\n".join([first, first + between + second, first])
    line = head.count("\n") + 2
    with pytest.raises(UsageError, match=f"^list.txt:{line}: ") as caught:
        read(content + b"\n")
    assert MD5[:10] not in caught.value.message


@pytest.mark.parametrize("between", "\0\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029", ids=ascii)
def test_a_comment_swallows_no_row(between: str) -> None:
    for head in ("", f"{MD5}\n"):
        with pytest.raises(UsageError, match=r"^list.txt:[12]: .* within a line"):
            read(f"{head}# comment{between}{MD5}\n{MD5}\n".encode())
    assert len(rows(f"# comment\r{MD5}\r# another\r{MD5}".encode())) == 2


@pytest.mark.parametrize(
    "name",
    ["\xc5ngstr\xf6m".encode(), "wait\u2026".encode(), b"cp1252 \x85", b"\x85 beef \x85", b"a=b"],
)
def test_bytes_of_letters_are_no_ends_of_lines(name: bytes) -> None:
    content = b"%s  %s\nMD5 (other) = %s\n" % (MD5.encode(), name, MD5.encode())
    content += b"MD5 (%s) = %s\n" % (name, MD5.encode())
    assert [found for _, found, *_ in rows(content)] == [
        os.fsdecode(name),
        "other",
        os.fsdecode(name),
    ]


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32"])
@pytest.mark.parametrize("content", [f"{MD5}\n", f"md5\n{MD5}\n", f"# comment\n{MD5}  a\n"])
def test_another_encoding_is_refused(encoding: str, content: str) -> None:
    with pytest.raises(UsageError, match=r"^list.txt:1: "):
        read(content.encode(encoding))
    with pytest.raises(UsageError, match=r"^list.txt:1: not UTF-8 but UTF-(16|32)"):
        read(content.encode("utf-16"))


def test_a_header_of_hashdeep_may_come_again_with_other_columns() -> None:
    again = f"%%%% HASHDEEP-1.0\n%%%% size,sha1,filename\n7,{SHA1},other\n"
    content = f"{HASHDEEP}6,{MD5},,{SHA256},name\n{again}"
    assert [(name, sorted(digests)) for _, name, digests, _ in rows(content.encode())] == [
        ("name", ["md5", "sha256"]),
        ("other", ["sha1"]),
    ]
    with pytest.raises(UsageError, match=r"^list.txt:9: not a sha1 digest"):
        read(f"{content}6,{MD5},,{SHA256},name\n".encode())


def test_a_column_of_hashdeep_that_occurs_twice() -> None:
    with pytest.raises(UsageError, match=r"^list.txt:2: a column occurs twice"):
        read(f"%%%% HASHDEEP-1.0\n%%%% size,md5,md5,filename\n1,{MD5},{MD5},a\n".encode())


def test_arguments_are_digests_and_nothing_else() -> None:
    batch = digests_of_arguments([MD5, f" {SHA1.upper()}\t", SHA256])
    assert batch.count == 3 and batch.lines.tolist() == [1, 2, 3]
    found = {
        int(row): value.tobytes().hex()
        for values, at in batch.digests.values()
        for value, row in zip(values, at, strict=True)
    }
    assert found == {0: MD5, 1: SHA1, 2: SHA256}


NO_DIGESTS = (
    *("", " ", "zz", f"#{MD5}", f"# {MD5}", f"{MD5}\n{MD5}", f"{MD5}  name", f"{MD5},", "md5"),
    *(MD5[:-1], f"{MD5}00", f"\ufeff{MD5}", "\u0661" * 32, "\udcff", f"MD5 (a) = {MD5}", "%%%%"),
)


@pytest.mark.parametrize("wrong", NO_DIGESTS, ids=ascii)
def test_an_argument_that_is_no_digest(wrong: str) -> None:
    with pytest.raises(UsageError, match=r"^argument:2: (not a digest|no digest has)") as caught:
        digests_of_arguments([MD5, wrong, MD5])
    assert MD5 not in caught.value.message


def test_names_in_messages_are_printable() -> None:
    with pytest.raises(UsageError, match=r"^a\\x1b\[2J:1: "):
        list(read_digests(io.BytesIO(b"?\n"), "a\x1b[2J"))
