"""Archives and mail that other programs can open: each way to check a file agrees.

Each of `ROWS` is an archive with one listed member that unzip, 7z, bsdtar, cabextract or unar
extract without an error, or a mail whose listed member mail programs extract.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from fixtures import archives, images, mails, ole, others, pdfs, pst, zipmethods
from fixtures.differential.cases import PLANTED
from fixtures.differential.doors import DOORS, STEPS, World, differing, verdict
from fixtures.differential.kinds import KINDS
from fixtures.differential.ours import Said
from hashclient.containers import meaning
from hashclient.scan.check import marks
from tests.kit import State, csv_of, make_state, remember_at_once, run, write_tree

LISTED = b"a listed file\nof some length\n"
CONTENTS = {"a": b"benign", "in/x": LISTED}
NOISE = random.Random(11).randbytes(100_000)
FRONTS = {
    "a picture": b"\xff\xd8\xff\xe0" + NOISE[:3000],
    "a film": b"\0\0\0\x18ftypmp42" + NOISE[:3000],
    "a PDF": b"%PDF-1.4\n" + NOISE[:3000],
    "a program": others.elf_of(),
    "a program for Windows": others.program_of(),
    "an old Word document": bytes.fromhex("d0cf11e0a1b11ae1") + NOISE[:3000],
    "a picture in EMF": b"\1\0\0\0" + bytes(36) + b" EMF" + NOISE[:3000],
}
ZIP = archives.zip_of(CONTENTS)
WITH_COMMENT = archives.zip_of(CONTENTS, comment=b"benign " * 70)
LONG_DIRECTORY = archives.zip_of(
    {**CONTENTS, **{f"{n:04}{'n' * 60}": b"" for n in range(700)}}, archives.STORED
)
SEVEN_ZIP, RAR5 = others.seven_zip_of(CONTENTS), others.rar5_of(CONTENTS)
CAB = others.cab_of(CONTENTS)


def rows() -> Iterator[tuple[str, bytes]]:
    """Yield names and contents of files."""
    for name, front in FRONTS.items():
        yield f"zip behind {name}", front + ZIP
        yield f"zip with a comment behind {name}", front + WITH_COMMENT
        yield f"zip behind {name}, with 70 kB after it", front + ZIP + bytes(70_000)
        yield f"zip with a long directory behind {name}", front + LONG_DIRECTORY
        yield f"zip behind a long {name[2:]}", front + NOISE + WITH_COMMENT
        yield f"7z behind {name}", front + SEVEN_ZIP
        yield f"rar behind {name}", front + others.rar4_of(CONTENTS)
        yield f"rar 5 behind {name}", front + RAR5
    junk = b"\1" * 3000
    yield "zip behind junk", junk + ZIP
    yield "zip with a comment behind junk", junk + WITH_COMMENT
    yield "zip with a comment behind much junk", junk + NOISE + WITH_COMMENT
    yield "7z behind junk", junk + SEVEN_ZIP
    yield "zip of which only the end tells, behind 700 kB", bytes(700_000) + ZIP
    yield "zip with 200 kB after it", ZIP + NOISE + NOISE
    for name in ("a program", "a program for Windows"):
        for kind, inner in (("7z", SEVEN_ZIP), ("rar 5", RAR5), ("cab", CAB)):
            signed = inner + NOISE[:5000]
            yield f"{kind} behind {name}, with a signature", FRONTS[name] + signed
            yield f"{kind} behind {name} and its settings", FRONTS[name] + b";!@Install" + inner
        yield f"cab behind {name} and much more", FRONTS[name] + NOISE + CAB + NOISE
    yield "cab in the resources of a program", others.program_of(b"", NOISE[:999] + CAB)
    yield from mails.odd_mails(LISTED).items()
    types = {"directory": 0o040755, "fifo": 0o010644, "device": 0o020644, "socket": 0o140644}
    for name, mode in types.items():
        yield f"7z of a {name} with bytes", others.seven_zip_of(CONTENTS, 0x8000 | mode << 16)
    yield "7z of a directory by Windows, with bytes", others.seven_zip_of(CONTENTS, 0x10)
    yield "7z whose end nobody wrote down", others.seven_zip_of(CONTENTS, with_end=False)
    yield "cpio of the binary form", others.cpio_binary_of(CONTENTS)
    yield "cpio of the other byte order", others.cpio_binary_of(CONTENTS, ">")
    short = others.cab_of(CONTENTS, reserve=(20, 4, 8), block_bytes=20)
    yield "cab with short blocks", short
    yield "cab with bytes kept free", others.cab_of(CONTENTS, reserve=(20, 4, 8))
    image, other = images.image_of, {"README.TXT": b"benign"}
    yield "file in ISO 9660 alone", image({"X.BIN": LISTED}, other)
    yield "file in Joliet alone", image(other, {"x.bin": LISTED})
    yield "file in UDF alone", image(other, None, {"x.bin": LISTED})
    yield (
        "file in the entries of UDF alone",
        image(other, other, {"x": LISTED}, inside_entries=True),
    )
    yield "image of UDF alone", image(None, None, {"x": LISTED, "y": b""})
    both = others.lha_and_tar(LISTED, b"benign")
    methods = {
        "that is shrunk": (zipmethods.SHRUNK, 0, zipmethods.shrunk(LISTED)),
        "that is imploded": (zipmethods.IMPLODED, 6, zipmethods.imploded(LISTED)),
    }
    for name, (method, flags, packed) in methods.items():
        made = archives.Zip().add(b"x", LISTED, method, data=packed, flags=flags)
        yield f"zip of a member {name}", made.end()
    yield "lha of a name in Japanese", others.lha_of(LISTED, "\u30c6\u30b9\u30c8.txt")
    yield "archive of two kinds in gzip", archives.gzip_of(both)
    yield (
        "zip behind an office document in a zip",
        archives.zip_of({"x": ole.ole_of({"s": b"b"}) + ZIP}),
    )
    yield "store of Outlook", pst.pst_of(CONTENTS)
    forwarded = pst.Message(attached={"m": pst.Message(attached=CONTENTS)})
    yield "message within one in a store", pst.store_of({"a": [forwarded]})
    if find_spec("pikepdf"):
        yield "file in a PDF", pdfs.pdf_of(CONTENTS)


ROWS = dict(rows())
QUICK = (
    *("zip with a comment behind junk", "7z behind a picture", "zip with 200 kB after it"),
    *("alone", "behind an odd line"),
)


def samples() -> Iterator[tuple[str, bytes]]:
    """Yield names and contents of files for all doors: some of each kind, drawn at random."""
    yield from ROWS.items()
    for kind in KINDS.values():
        for number in range(4):
            yield f"{kind.name} {number}{kind.suffix}", kind.bytes_of(kind.draw(f"doors {number}"))
    yield from {"listed": LISTED, "clean": b"clean", "empty": b"", "cut off": ZIP[:-30]}.items()


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tree(tmp_path_factory.mktemp("files"), ROWS)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    planted = {f"p-{number}": content for number, content in enumerate(PLANTED)}
    with World(tmp_path_factory.mktemp("world"), {"e-1": LISTED, **planted}) as world:
        yield world


def found(state: Path, *args: object) -> set[str]:
    """Return the files in which a member is listed."""
    lines = run("--state-dir", state, "scan", "--format", "jsonl", *args).lines[:-1]
    return {Path(line["container"]).name for line in lines if line["type"] == "match"}


@pytest.mark.sampled
@pytest.mark.parametrize("sized", [True, False], ids=["with sizes", "without sizes"])
def test_a_scan_finds_a_listed_member_in_each(tree: Path, tmp_path: Path, *, sized: bool) -> None:
    """Files whose size no entry has are searched for magic bytes; other files are read as well."""
    state = make_state(tmp_path, {"base": csv_of({"e-1": LISTED}, sized=sized)})
    assert found(state, tree) == set(ROWS)


@pytest.mark.sampled
@pytest.mark.parametrize("name", QUICK)
def test_a_stream_finds_a_listed_member(world: World, tmp_path: Path, name: str) -> None:
    write_tree(tmp_path, {"a": ROWS[name]})
    for door in ("stdin", "check(bytes)"):
        assert DOORS[door](world, [tmp_path / "a"])["a"].found == {"e-1"}


@pytest.mark.slow
@pytest.mark.parametrize("door", list(DOORS)[1:])
def test_each_file_has_one_verdict_by_every_door(
    world: World, tmp_path_factory: pytest.TempPathFactory, door: str
) -> None:
    """`python -m fixtures.differential --corpus DIR --doors` does the same with files in DIR."""
    names, contents = zip(*samples(), strict=True)
    numbered = {str(number): content for number, content in enumerate(contents)}
    folder = write_tree(tmp_path_factory.mktemp("samples"), numbered)
    files = [folder / number for number in numbered][:: STEPS.get(door, 1)]
    by_path = DOORS["path"](world, files)
    verdicts = [verdict(by_path.get(file.name, Said())) for file in files]
    assert {"match", "clean", "unread"} <= set(verdicts)
    found = differing(world, files, by_path, door)
    assert not [(names[int(number)], said) for number, said in found]


@pytest.mark.slow
def test_files_that_an_earlier_inventory_knows_as_no_containers_are_opened(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The inventory says that an earlier version, which knew fewer kinds, saw no container here."""
    remember_at_once(monkeypatch, tmp_path)
    state = State(tmp_path, {"base": {"e-1": LISTED}})
    state.let_time_pass()
    with monkeypatch.context() as earlier:
        for name in ("look_at", "has_behind", "ends_as_container"):
            earlier.setattr(marks, name, lambda *_, **__: ())
        earlier.setattr(meaning, "NUMBERS", {})
        before = state.call("scan", "--jobs", "1", "--format", "jsonl", tree)
        assert (before.code, before.summary["members"]) == (0, 0)
        known = state.call("scan", "--jobs", "1", "--format", "jsonl", tree)
        assert known.summary["known_unchanged"] == len(ROWS)
    after = state.call("scan", "--jobs", "1", "--format", "jsonl", tree)
    assert {Path(line["container"]).name for line in after.lines[:-1]} == set(ROWS)
