"""Packages: their content, that others can verify and open them, and that changes are found."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import stat
import subprocess
import sys
import tarfile
import tracemalloc
import zipfile
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fixtures.crash import interrupt_at, watched
from fixtures.desk import Desk
from hashclient.audit.log import Event, read, verify
from hashclient.audit.parts import MAX_BODY_CHARS
from hashclient.audit.record import encode_body, encode_record, format_time, parse_record
from hashclient.core.agefile import parse_header
from hashclient.core.errors import (
    AuthorisationError,
    ConfigError,
    ExitCode,
    StateError,
    UsageError,
    VerificationError,
)
from hashclient.core.match import Match
from hashclient.packages.chain import verify_custody
from hashclient.packages.document import Document, file_path, parse_document
from hashclient.packages.index import check
from hashclient.packages.verify import verify_package, verify_retraction
from hashclient.quarantine.age import load_identities, write_identity
from hashclient.quarantine.evidence import opener_of
from hashclient.reporting.describing import encode_document
from hashclient.reporting.destinations.package import package as package_module
from hashclient.reporting.report import Report, State
from tests.kit import call, environment, write_tree
from tests.tampered import TAMPERINGS, change

ROOT = Path(__file__).parents[2]
SCHEMA = json.loads((ROOT / "docs" / "report.schema.json").read_bytes())
A, B = b"first file" * 10_000, b""


def package_of(desk: Desk, report: Report) -> Path:
    found = desk.outbox.get(report.id).package
    assert found is not None
    return desk.out / found.name


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Desk:
    """Return a desk that has sent a package: one file is sealed, one file is in place."""
    desk = Desk(tmp_path_factory.mktemp("desk"))
    first, second = desk.find("a", A), desk.find(b"b\xff", B)
    desk.find("not reported", b"another")
    desk.quarantine(first)
    sent = desk.send(desk.prepare(first, second))
    assert sent.error is None and sent.notes == ()
    return desk


@pytest.fixture(scope="module")
def package(desk: Desk) -> Path:
    (path,) = (p for p in desk.out.iterdir() if p.is_dir())
    return path


def test_the_content_of_a_package(desk: Desk, package: Path) -> None:
    document = parse_document((package / "document.json").read_bytes())
    first, second = document.matches
    names = {p.relative_to(package).as_posix() for p in package.rglob("*")}
    evidence = f"evidence/{first.id}.age"
    head = {"README.txt", "document.json", "custody.jsonl", "checkpoint.json", "evidence"}
    assert names == head | {evidence}
    assert first.evidence is not None and second.evidence is None
    assert first.evidence.recipients == (desk.officer_public,)
    assert (first.in_place, second.in_place) == (False, True)
    assert file_path(second) == os.fsdecode(bytes(desk.files) + b"/b\xff")
    assert (first.viewed, second.viewed) == (False, False)
    assert [step.event for step in first.story] == ["found", "quarantined", "report-prepared"]
    assert all((p.stat().st_mode & 0o077) == 0 for p in [package, *package.rglob("*")])


def test_no_digest_of_a_file_is_in_it(package: Path) -> None:
    texts = b"".join(p.read_bytes() for p in package.glob("*.*"))
    for data in (A, B):
        for name in ("md5", "sha1", "sha256"):
            assert hashlib.new(name, data).hexdigest().encode() not in texts


def test_the_document_fits_the_published_schema(package: Path) -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    validator = jsonschema.Draft202012Validator(
        SCHEMA, format_checker=jsonschema.Draft202012Validator.FORMAT_CHECKER
    )
    document = json.loads((package / "document.json").read_bytes())
    validator.validate(document)
    for path in (["matches", 0, "state"], ["report"], ["matches", 0, "evidence", "sha256"]):
        broken = json.loads((package / "document.json").read_bytes())
        place = broken
        for key in path[:-1]:
            place = place[key]
        place[path[-1]] = True
        assert not validator.is_valid(broken)
        with pytest.raises(VerificationError):
            parse_document(json.dumps(broken).encode())


def test_no_newline_passes_for_the_end_of_an_id(package: Path) -> None:
    text = (package / "document.json").read_bytes()
    document = json.loads(text)
    ids = [document["report"], *(m["id"] for m in document["matches"])]
    evidence = document["matches"][0]["evidence"]
    for value in (*ids, evidence["name"], evidence["sha256"]):
        with pytest.raises(VerificationError):
            parse_document(text.replace(f'"{value}"'.encode(), f'"{value}\\n"'.encode()))


def test_the_schema_names_what_the_code_does() -> None:
    def check(schema: dict[str, object], struct: type) -> None:
        properties = schema["properties"]
        assert isinstance(properties, dict)
        assert set(properties) == set(struct.__struct_fields__)  # type: ignore[attr-defined]

    from hashclient.packages import document as module

    check(SCHEMA, Document)
    check(SCHEMA["properties"]["reporter"], module.Reporter)
    check(SCHEMA["properties"]["tool"], module.Tool)
    check(SCHEMA["$defs"]["match"], module.ReportedMatch)
    check(SCHEMA["$defs"]["entry"], module.Entry)
    check(SCHEMA["$defs"]["evidence"], module.Evidence)
    check(SCHEMA["$defs"]["context"], module.Context)


def test_it_verifies_on_another_machine(desk: Desk, package: Path, tmp_path: Path) -> None:
    """The package is verified in a process with another home, no configuration and no state."""
    elsewhere = tmp_path / "elsewhere"
    shutil.copytree(package, elsewhere)
    done = subprocess.run(
        [sys.executable, "-m", "hashclient", "report", "verify", "elsewhere", "--format", "jsonl"],
        cwd=tmp_path,
        env=environment(HOME=str(tmp_path), XDG_STATE_HOME="", XDG_CONFIG_HOME=""),
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    genesis = next(read(desk.settings.layout.audit))
    assert {row["public_key"] for row in rows} == {genesis.data["public_key"]}
    assert [row["evidence"] for row in rows] == ["sealed", "none"]
    assert {p.name for p in tmp_path.iterdir()} == {"elsewhere"}


def test_the_custody_holds_all_of_these_matches_and_nothing_of_others(package: Path) -> None:
    lines = [json.loads(line) for line in (package / "custody.jsonl").read_bytes().splitlines()]
    assert [line["event"] for line in lines] == [
        "genesis",
        "match",
        "match",
        "quarantine-sealed",
        "quarantined",
        "report-prepared",
        "report-submitting",
        "report-packaged",
    ]
    assert all("sig" in line for line in lines)
    document = parse_document((package / "document.json").read_bytes())
    assert {line["data"]["id"] for line in lines[1:3]} == {m.id for m in document.matches}


def test_the_key_is_compared(desk: Desk, package: Path) -> None:
    key = verify_package(package).public_key
    assert verify_package(package, public_key=f" {key.upper()}\n").public_key == key
    with pytest.raises(VerificationError, match="another key"):
        verify_package(package, public_key="0" * 64)
    for no_key in ("", key[:-1], key + "0", "g" * 64, "\x1b[2J"):
        with pytest.raises(UsageError, match="not a public key") as caught:
            verify_package(package, public_key=no_key)
        assert caught.value.message.isprintable()


@pytest.mark.skipif(shutil.which("age") is None, reason="the age tool is not installed")
def test_evidence_opens_with_the_age_tool(desk: Desk, package: Path) -> None:
    (path,) = (package / "evidence").iterdir()
    done = subprocess.run(
        ["age", "-d", "-i", desk.officer, path], capture_output=True, check=True, timeout=60
    )
    assert done.stdout == A


def files_of(package: Path) -> list[Path]:
    return sorted(p for p in package.rglob("*") if p.is_file())


@pytest.mark.slow
@given(st.data())
def test_no_edit_passes(package: Path, data: st.DataObject) -> None:
    """One byte is changed, inserted or removed anywhere, or the end is cut off."""
    path = data.draw(st.sampled_from(files_of(package)))
    text = path.read_bytes()
    at = data.draw(st.integers(0, len(text) - 1))
    edits = {
        "change": text[:at] + bytes([text[at] ^ data.draw(st.integers(1, 255))]) + text[at + 1 :],
        "insert": text[:at] + b"\n" + text[at:],
        "remove": text[:at] + text[at + 1 :],
        "cut": text[:at],
    }
    edited = edits[data.draw(st.sampled_from(sorted(edits)))]
    try:
        path.write_bytes(edited)
        with pytest.raises(VerificationError) as caught:
            verify_package(package)
        assert caught.value.message.isprintable()
    finally:
        path.write_bytes(text)
    verify_package(package)


@pytest.mark.parametrize("name", TAMPERINGS)
def test_each_tampering_is_refused(package: Path, tmp_path: Path, name: str) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(package, copy)
    TAMPERINGS[name](copy)
    with pytest.raises(VerificationError):
        verify_package(copy)


def test_an_odd_checkpoint_on_the_command(package: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(package, copy)
    change(copy / "checkpoint.json", lambda text: b"\n" + text)
    result = call("report", "verify", copy)
    assert (result.code, result.out) == (6, "")
    assert "the checkpoint does not verify: not in canonical form" in result.err


#: Documents that a reporter could sign, but that two readers could read differently.
ODD_DOCUMENTS: dict[str, tuple[bytes, bytes]] = {
    "report": (b'"report": ', b'"report": "r-bbbbbbbbbb", "report": '),
    "matches": (b'"matches": ', b'"matches": [], "matches": '),
    "path": (b'"path": ', b'"path": "/srv/other", "path": '),
    "in a story": (b'"detail": {\n', b'"detail": {"a": 1, "a": 2, '),
    "number that is none": (b'"detail": {\n', b'"detail": {"a": NaN, '),
    "number beyond all": (b'"detail": {\n', b'"detail": {"a": 1e999, '),
    "half a character": (b'"detail": {\n', b'"detail": {"a": "\\ud800", '),
    "deep": (b'"detail": {\n', b'"detail": {"a": ' + b"[" * 100_000 + b"]" * 100_000 + b", "),
}


@pytest.mark.parametrize("name", ODD_DOCUMENTS)
def test_a_document_that_is_signed_and_means_two_things(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    before, after = ODD_DOCUMENTS[name]

    def odd(document: Document) -> bytes:
        text = encode_document(document)
        assert before in text
        return text.replace(before, after, 1)

    desk = Desk(tmp_path)
    match = desk.find("a", A)
    desk.quarantine(match)
    report = desk.prepare(match)
    monkeypatch.setattr("hashclient.reporting.destinations.package.package.encode_document", odd)
    assert desk.send(report).error is None
    with pytest.raises(VerificationError, match="not a report document"):
        verify_package(package_of(desk, report))


@pytest.mark.slow
def test_a_document_that_asks_for_any_amount_of_memory() -> None:
    """The test uses a new process, because an old process may have free memory to reuse."""
    code = (
        "from hashclient.core.errors import VerificationError\n"
        "from hashclient.packages import document\n"
        "document.MAX_PARSING_BYTES = 64 << 20\n"
        "try: document.parse_document(b'{\"format\": [' + b'{},' * 4_000_000 + b'{}]}')\n"
        "except VerificationError as error: print(error.message)\n"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, check=True)
    assert "too much memory" in done.stdout


@pytest.mark.parametrize("told", [0, 1, 1 << 15])
def test_a_file_that_does_not_end_where_it_says(
    package: Path, monkeypatch: pytest.MonkeyPatch, told: int
) -> None:
    """A file system may claim one length and return more or fewer bytes, possibly without end."""
    status = os.fstat

    def fstat(fd: int) -> os.stat_result:
        values = list(status(fd))
        values[stat.ST_SIZE] = told
        return os.stat_result(values)

    monkeypatch.setattr(os, "fstat", fstat)
    with pytest.raises(VerificationError, match=r"README\.txt is not as long as it says"):
        verify_package(package)


def test_the_parts_of_two_packages_do_not_mix(desk: Desk, package: Path, tmp_path: Path) -> None:
    document = parse_document((package / "document.json").read_bytes())
    with desk.record() as record:
        match = record.get(document.matches[0].id)
    again = desk.prepare(match, again=True)
    desk.send(again)
    other = package_of(desk, again)
    verify_package(other)
    for name in ("document.json", "custody.jsonl", "README.txt"):
        copy = tmp_path / name
        shutil.copytree(package, copy)
        shutil.copyfile(other / name, copy / name)
        with pytest.raises(VerificationError):
            verify_package(copy)
    # An older checkpoint does not cover later records.
    shutil.copyfile(package / "checkpoint.json", other / "checkpoint.json")
    with pytest.raises(VerificationError, match="does not cover"):
        verify_package(other)


def test_a_checkpoint_of_another_log(desk: Desk, package: Path, tmp_path: Path) -> None:
    other = Desk(tmp_path / "other")
    other.send(other.prepare(other.find("a", A)))
    (path,) = other.out.iterdir()
    copy = tmp_path / "copy"
    shutil.copytree(package, copy)
    shutil.copyfile(path / "checkpoint.json", copy / "checkpoint.json")
    with pytest.raises(VerificationError, match="another log"):
        verify_package(copy)


# Archives that are sealed to their recipient.


@pytest.fixture
def recipient(tmp_path: Path) -> tuple[Path, str]:
    path = tmp_path / "recipient.key"
    return path, write_identity(path, datetime(2026, 1, 31, tzinfo=UTC))


@pytest.fixture
def sealed(tmp_path: Path, recipient: tuple[Path, str]) -> tuple[Desk, Path]:
    """Return a desk that has handed over a sealed archive, and the archive."""
    table = (
        f'[report.to.sealed]\nkind = "package"\ndirectory = "{tmp_path / "out"}"\n'
        f'recipients = ["{recipient[1]}"]\n'
    )
    desk = Desk(tmp_path, table)
    match = desk.find("a", A)
    sent = desk.send(desk.prepare(match, desk.find("b", B), to="sealed", seal_evidence=True))
    assert sent.error is None and sent.notes == ()
    return desk, package_of(desk, sent.report)


def test_an_archive_verifies_for_its_recipient(
    sealed: tuple[Desk, Path], recipient: tuple[Path, str]
) -> None:
    desk, path = sealed
    assert path.name.endswith(".tar.age")
    found = verify_package(path, opener=opener_of(load_identities(recipient[0])))
    assert found.evidence == 2
    with pytest.raises(UsageError, match="sealed"):
        verify_package(path)
    with pytest.raises(AuthorisationError):
        verify_package(path, opener=opener_of(load_identities(desk.officer)))
    # Two keys open the evidence: the officer's and the recipient's. The files stay in place.
    for match in found.document.matches:
        assert match.evidence is not None
        assert match.evidence.recipients == (desk.officer_public, recipient[1])
        assert Path(match.path).exists() and match.in_place
    assert not (desk.outbox.folder(found.document.report) / "sealed").exists()


@pytest.mark.skipif(shutil.which("age") is None, reason="the age tool is not installed")
def test_an_archive_opens_with_standard_tools(
    sealed: tuple[Desk, Path], recipient: tuple[Path, str], tmp_path: Path
) -> None:
    command = ["age", "-d", "-i", str(recipient[0]), str(sealed[1])]
    opened = subprocess.run(command, capture_output=True, check=True, timeout=60)
    (tmp_path / "package.tar").write_bytes(opened.stdout)
    verify_package(tmp_path / "package.tar")
    folder = tmp_path / sealed[1].name.removesuffix(".tar.age")
    subprocess.run(["tar", "xf", "package.tar"], cwd=tmp_path, check=True)
    found = verify_package(folder)
    evidence = found.document.matches[0].evidence
    assert evidence is not None
    command = ["age", "-d", "-i", str(recipient[0]), str(folder / evidence.name)]
    assert subprocess.run(command, capture_output=True, check=True, timeout=60).stdout == A


@pytest.mark.skipif(shutil.which("age") is None, reason="the age tool is not installed")
def test_two_archives_unpack_side_by_side(
    sealed: tuple[Desk, Path], recipient: tuple[Path, str], tmp_path: Path
) -> None:
    desk, _ = sealed
    assert desk.send(desk.prepare(desk.find("c", b"third"), to="sealed")).error is None
    place = tmp_path / "place"
    place.mkdir()
    for path in desk.out.glob("*.tar.age"):
        command = f"age -d -i '{recipient[0]}' '{path}' | tar x"
        subprocess.run(["sh", "-c", command], cwd=place, check=True, timeout=60)
    found = {verify_package(path).document.report for path in place.iterdir()}
    assert {f"hashclient-report-{report}" for report in found} == {p.name for p in place.iterdir()}
    assert len(found) == 2


def test_a_document_of_an_older_format_is_refused_by_name(package: Path) -> None:
    text = (package / "document.json").read_bytes()
    older = text.replace(b"hashclient-report/2", b"hashclient-report/1")
    with pytest.raises(VerificationError, match="of the format hashclient-report/1, which only"):
        parse_document(older)


def test_a_damaged_archive(sealed: tuple[Desk, Path], recipient: tuple[Path, str]) -> None:
    path, identities = sealed[1], load_identities(recipient[0])
    text = path.read_bytes()
    for edited in (text[:-1], text[:1000], text[:-500] + b"x" + text[-499:], text + b"x"):
        path.write_bytes(edited)
        with pytest.raises(VerificationError):
            verify_package(path, opener=opener_of(identities))


def code_of(path: Path, identities: list[Any]) -> ExitCode:
    """Return the exit code of `report verify`."""
    error = check(path, opener=opener_of(identities) if identities else None).error
    return ExitCode.OK if error is None else error.exit_code


@pytest.mark.slow
@pytest.mark.parametrize("is_sealed", [False, True])
def test_no_damaged_byte_and_no_cut_makes_a_package_none(
    sealed: tuple[Desk, Path],
    recipient: tuple[Path, str],
    plain_tar: bytes,
    tmp_path: Path,
    is_sealed: bool,
) -> None:
    whole = sealed[1].read_bytes() if is_sealed else plain_tar
    identities, path = load_identities(recipient[0]), tmp_path / "x"
    # If a recipient's line is damaged, it looks like the line of another recipient.
    header = parse_header(whole).header_bytes if is_sealed else 0
    first_line = len(b"age-encryption.org/v1\n") if is_sealed else 0
    places = {*range(300), *range(300, len(whole), len(whole) // 100), len(whole) - 1}
    for at in sorted(places):
        stanza = first_line <= at < header
        codes = {6, 5} if stanza else {6}
        path.write_bytes(whole[:at])
        assert code_of(path, identities) == 6, f"cut at {at}"
        for value in {0, ord("X"), ord("{"), ord("\n"), whole[at] ^ 1} - {whole[at]}:
            path.write_bytes(whole[:at] + bytes([value]) + whole[at + 1 :])
            assert code_of(path, identities) in codes, f"byte {at} is {value}"
            if at < first_line:
                assert code_of(path, []) == 6, f"byte {at} is {value}"


def test_worse_damage_and_what_was_never_a_package(
    sealed: tuple[Desk, Path], plain_tar: bytes, tmp_path: Path
) -> None:
    text, path = sealed[1].read_bytes(), tmp_path / "x"
    damaged = (
        text[1:],
        b"\xff" * 21 + text[21:],
        text.replace(b"/v1\n", b"/v2\n", 1),
        b"age-encryption.org/",
        # The first name and the first magic bytes are damaged; the second header has magic bytes,
        # too.
        b"\xff" * 400 + plain_tar[400:],
        b"\xff" * 512 + plain_tar[512:],
    )
    for content in damaged:
        path.write_bytes(content)
        assert code_of(path, []) == 6, content[:30]
    zipped = io.BytesIO()
    with zipfile.ZipFile(zipped, "w") as archive:
        archive.writestr("README.txt", "x" * 1000)
    picture = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + bytes(600)
    for content in (b"a text\n-> with an arrow\n" * 9, b"age of ...", picture, zipped.getvalue()):
        path.write_bytes(content)
        assert code_of(path, []) == 2, content[:30]
    assert code_of(write_tree(tmp_path / "empty", {}), []) == 2


def members(found: tarfile.TarFile) -> list[tuple[tarfile.TarInfo, bytes]]:
    result = []
    for info in found:
        stream = found.extractfile(info)
        assert stream is not None
        result.append((info, stream.read()))
    return result


@pytest.fixture
def plain_tar(sealed: tuple[Desk, Path], recipient: tuple[Path, str]) -> bytes:
    import pyrage

    opened: bytes = pyrage.decrypt(sealed[1].read_bytes(), load_identities(recipient[0]))
    return opened


def test_an_archive_is_of_the_plainest_kind(plain_tar: bytes, tmp_path: Path) -> None:
    """Content that only another kind of archive can store is refused."""
    path = tmp_path / "x.tar"
    path.write_bytes(plain_tar)
    verify_package(path)
    with tarfile.open(path) as opened:
        content = members(opened)

    def rebuilt(change: Callable[[list[tuple[tarfile.TarInfo, bytes]]], None]) -> bytes:
        items = [(tarfile.TarInfo.frombuf(i.tobuf(), "ascii", "strict"), d) for i, d in content]
        change(items)
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT) as archive:
            for info, text in items:
                archive.addfile(info, io.BytesIO(text))
        return buffer.getvalue()

    def rename(name: str) -> Callable[[list[tuple[tarfile.TarInfo, bytes]]], None]:
        return lambda items: setattr(items[-1][0], "name", name)

    def link(items: list[tuple[tarfile.TarInfo, bytes]]) -> None:
        items[-1][0].type, items[-1][0].linkname = tarfile.SYMTYPE, "/etc/passwd"

    def another_folder(items: list[tuple[tarfile.TarInfo, bytes]], start: int = 0) -> None:
        for info, _ in items[start:]:
            info.name = f"hashclient-report-r-bbbbbbbbbb/{info.name.partition('/')[2]}"

    assert rebuilt(lambda _: None).startswith(plain_tar)  # tar fills its file up to 10 KiB
    hostile = [
        rebuilt(another_folder)[: len(plain_tar)],
        rebuilt(lambda items: another_folder(items, 4))[: len(plain_tar)],
        rebuilt(rename("../evidence.age")),
        rebuilt(rename("/etc/passwd")),
        rebuilt(rename("x" * 200)),
        rebuilt(link),
        rebuilt(lambda items: items.reverse()),
        rebuilt(lambda items: items.append(items[-1])),
        rebuilt(lambda items: setattr(items[0][0], "mtime", 1)),
        plain_tar[:-512],
        plain_tar[:-1024],
        plain_tar[:5000],
        plain_tar + b"x",
        plain_tar + plain_tar,
        b"",
        b"\0" * 1024,
        b"x" * 512 + plain_tar[512:],
    ]
    for text in hostile:
        path.write_bytes(text)
        with pytest.raises(VerificationError):
            verify_package(path)


# Failures, and conditions that are not failures.


def test_an_existing_package_is_never_overwritten(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    report = desk.prepare(desk.find("a", A))
    target = desk.out / f"hashclient-report-{report.id}"
    target.mkdir()
    sent = desk.send(report)
    assert isinstance(sent.error, StateError) and "there already" in sent.error.message
    assert list(target.iterdir()) == []
    target.rmdir()
    assert desk.send(report).error is None


@pytest.mark.parametrize("is_sealed", [False, True])
def test_another_file_under_the_name_is_not_taken_for_the_package(
    tmp_path: Path, is_sealed: bool
) -> None:
    """The record names the package before it appears; another file is not the sent package."""
    desk = Desk(tmp_path)
    report = desk.prepare(desk.find("a", A))
    with watched(interrupt_at("rename", report.id)), pytest.raises(KeyboardInterrupt):
        desk.send(report)
    target = package_of(desk, report)
    assert not target.exists() and list(desk.out.iterdir()) == []
    if is_sealed:
        target.write_bytes(b"somebody's")
    else:
        target.mkdir()
        (target / "custody.jsonl").write_bytes(b"somebody's")
    sent = desk.send(report)
    assert isinstance(sent.error, StateError)
    assert "something is there already" in sent.error.message
    assert desk.outbox.get(report.id).is_open
    (shutil.rmtree if target.is_dir() else os.unlink)(target)
    assert desk.send(report).error is None
    verify_package(target)


def test_no_directory_to_put_it_in(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    report = desk.prepare(desk.find("a", A))
    desk.out.rmdir()
    sent = desk.send(report)
    assert isinstance(sent.error, StateError)
    assert not desk.out.exists()
    assert sent.report.state is State.PREPARED


def test_damaged_evidence_is_not_handed_over(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    match = desk.find("a", A)
    desk.quarantine(match)
    report = desk.prepare(match)
    evidence = desk.settings.layout.quarantine / match.id / "evidence.age"
    evidence.write_bytes(evidence.read_bytes()[:-1] + b"\0")
    sent = desk.send(report)
    assert isinstance(sent.error, StateError) and "damaged" in sent.error.message
    assert list(desk.out.iterdir()) == []


def test_more_files_than_a_record_of_the_log_can_bind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    longest = f'"evidence/{"a" * 10}.facts.age":"{"0" * 64}",'
    assert package_module.MOST_FILES * len(longest) < MAX_BODY_CHARS - (1 << 14)
    monkeypatch.setattr(package_module, "MOST_FILES", 1)
    desk = Desk(tmp_path)
    matches = [desk.find("a", A), desk.find("b", B)]
    for match in matches:
        desk.quarantine(match)
    sent = desk.send(desk.prepare(*matches))
    assert isinstance(sent.error, UsageError) and "at most 1 sealed files, not 2" in str(sent.error)
    assert list(desk.out.iterdir()) == []
    assert desk.send(desk.prepare(matches[0], again=True)).error is None


def test_a_file_quarantined_after_preparing_is_in_the_package(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    match = desk.find("a", A)
    report = desk.prepare(match)
    desk.quarantine(match)
    desk.send(report)
    found = verify_package(package_of(desk, report))
    assert found.evidence == 1 and not found.document.matches[0].in_place


def sealed_to(tmp_path: Path, *recipients: str) -> str:
    """Return the table of a destination whose packages are sealed to these recipients."""
    return (
        f'[report.to.sealed]\nkind = "package"\ndirectory = "{tmp_path / "out"}"\n'
        f"recipients = {json.dumps(recipients)}\n"
    )


def reseal(desk: Desk, match: Match, *recipients: str) -> None:
    with desk.record() as record:
        room = desk.room()
        assert room.reseal(match.id, desk.identities(), recipients, record, reason="r").done


def test_a_recipient_who_cannot_open_the_evidence_gets_nothing(
    tmp_path: Path, recipient: tuple[Path, str]
) -> None:
    desk = Desk(tmp_path, sealed_to(tmp_path, recipient[1]))
    match, other = desk.find("a", A), desk.find("b", b"b")
    for found in (match, other):
        desk.quarantine(found)
    report = desk.prepare(match, other, to="sealed")
    sent = desk.send(report)
    assert isinstance(sent.error, UsageError) and "cannot open" in sent.error.message
    assert match.id in sent.error.message and "and 1 more" in sent.error.message
    assert sent.error.hint is not None and "quarantine reseal" in sent.error.hint
    assert list(desk.out.iterdir()) == []
    assert "report-packaged" not in desk.events()
    assert sent.report.state is State.FAILED
    reseal(desk, match, desk.officer_public, recipient[1])
    sent = desk.send(report)
    assert sent.error is None and sent.report.matches == (match.id,)
    (apart,) = sent.report.apart
    last = desk.outbox.get(apart.report)
    assert last.problem is not None and other.id in last.problem.message
    reseal(desk, other, recipient[1])
    assert desk.send(last).error is None
    opener = opener_of(load_identities(recipient[0]))
    for one in (report, last):
        assert verify_package(package_of(desk, one), opener=opener).evidence == 1


def test_each_of_several_recipients_can_open_the_evidence(
    tmp_path: Path, recipient: tuple[Path, str]
) -> None:
    """The other office can open its copy of the package, which does not help the police."""
    office = write_identity(tmp_path / "office.key", datetime(2026, 1, 31, tzinfo=UTC))
    desk = Desk(tmp_path, sealed_to(tmp_path, office, recipient[1]))
    match = desk.find("a", A)
    desk.quarantine(match)
    reseal(desk, match, office)
    report = desk.prepare(match, to="sealed")
    sent = desk.send(report)
    assert isinstance(sent.error, UsageError) and recipient[1][:10] in sent.error.message
    assert list(desk.out.iterdir()) == []


def test_a_person_may_hand_over_what_the_recipient_cannot_open(
    tmp_path: Path, recipient: tuple[Path, str]
) -> None:
    desk = Desk(tmp_path, sealed_to(tmp_path, recipient[1]))
    match = desk.find("a", A)
    desk.quarantine(match)
    report = desk.prepare(match, to="sealed")
    state = desk.settings.state_dir
    refused = call("--state-dir", state, "report", "submit", report.id)
    assert refused.code == 2 and "cannot open" in refused.err
    done = call("--state-dir", state, "report", "submit", report.id, "--allow-closed")
    assert done.code == 0
    assert desk.outbox.get(report.id).history[-1].detail["closed"] == [match.id]


def test_the_recipient_of_an_unsealed_package_is_not_known(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    match = desk.find("a", A)
    desk.quarantine(match)
    assert desk.send(desk.prepare(match)).error is None


def test_evidence_that_is_sealed_for_the_package_is_for_its_recipients(
    tmp_path: Path, recipient: tuple[Path, str]
) -> None:
    desk = Desk(tmp_path, sealed_to(tmp_path, recipient[1]))
    report = desk.prepare(desk.find("a", A), to="sealed", seal_evidence=True)
    assert desk.send(report).error is None


def test_a_package_that_a_kill_kept_back_has_what_was_sealed_again_since(
    tmp_path: Path, recipient: tuple[Path, str]
) -> None:
    desk = Desk(tmp_path)
    match, in_place = desk.find("a", A), desk.find("b", b"b")
    desk.quarantine(match)
    report = desk.prepare(match, in_place, seal_evidence=True)
    with watched(interrupt_at("rename", report.id)), pytest.raises(KeyboardInterrupt):
        desk.send(report)
    assert desk.outbox.get(report.id).state is State.SUBMITTING
    reseal(desk, match, recipient[1])
    assert desk.send(report).error is None
    found = verify_package(package_of(desk, report))
    assert found.evidence == 2
    (evidence, _) = (m.evidence for m in found.document.matches)
    assert evidence is not None and evidence.recipients == (recipient[1],)


def test_sealing_on_the_fly_takes_only_the_file_that_matched(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    match = desk.find("a", A)
    report = desk.prepare(match, seal_evidence=True)
    (desk.files / "a").write_bytes(b"secret")
    sent = desk.send(report)
    assert sent.error is None
    (note,) = sent.notes
    assert match.id in note and "not the file that matched" in note
    assert verify_package(package_of(desk, report)).evidence == 0


def test_a_recipient_that_is_none(tmp_path: Path) -> None:
    table = (
        f'[report.to.sealed]\nkind = "package"\ndirectory = "{tmp_path / "out"}"\n'
        'recipients = ["age1nonsense"]\n'
    )
    desk = Desk(tmp_path, table)
    sent = desk.send(desk.prepare(desk.find("a", A), to="sealed"))
    assert isinstance(sent.error, ConfigError)
    assert sent.report.state is State.FAILED
    assert list(desk.out.iterdir()) == []


def test_a_package_is_acknowledged_and_retracted(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    match = desk.find("a", A)
    report = desk.prepare(match)
    with desk.record() as record:
        with pytest.raises(UsageError, match="prepared"):
            desk.outbox.acknowledge(report.id, "case 1", record)
        desk.send(report)
        done = desk.outbox.acknowledge(report.id, "case 1", record)
    assert done.reference == "case 1"
    assert desk.story(match) == ["found", "report-prepared", "reported", "acknowledged"]
    sent = desk.retract(report, "the entry was wrong")
    assert sent.report.state is State.RETRACTED
    note = desk.out / f"hashclient-report-{report.id}-retraction.json"
    found = verify_retraction(note)
    assert found.report_id == report.id
    assert found.record.data["reason"] == "the entry was wrong"
    assert found.public_key == verify_package(package_of(desk, report)).public_key
    with pytest.raises(UsageError, match="retracted already"):
        desk.retract(report)
    # If a kill prevented the note, the next `retract` writes it.
    note.unlink()
    desk.retract(report)
    verify_retraction(note)


def test_a_package_that_its_recipient_has_taken_needs_a_note_of_retraction(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    report = desk.prepare(desk.find("a", A))
    desk.send(report)
    package_of(desk, report).rename(tmp_path / "taken")
    gone = desk.out.rename(tmp_path / "not mounted")
    sent = desk.retract(report)
    assert isinstance(sent.error, StateError) and "report retract`" in (sent.error.hint or "")
    gone.rename(desk.out)
    sent = desk.retract(report)
    note = desk.out / f"hashclient-report-{report.id}-retraction.json"
    assert sent.error is None and str(note) in sent.detail
    assert verify_retraction(note).report_id == report.id


def test_a_note_of_retraction_that_was_edited(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    report = desk.prepare(desk.find("a", A))
    desk.send(report)
    desk.retract(report)
    note = desk.out / f"hashclient-report-{report.id}-retraction.json"
    document = json.loads(note.read_bytes())
    edits: list[object] = [
        {**document, "report": "r-bbbbbbbbbb"},
        {**document, "records": document["records"][:-1]},
        {**document, "records": document["records"][1:]},
        {**document, "more": 1},
        {**document, "records": []},
        {**document, "records": "x"},
        [],
        None,
    ]
    changed = json.loads(note.read_bytes())
    changed["records"][-1]["data"]["reason"] = "none"
    text = note.read_bytes()
    for edit in [*edits, changed]:
        note.write_bytes(json.dumps(edit, indent=1).encode() + b"\n")
        with pytest.raises(VerificationError):
            verify_retraction(note)
    note.write_bytes(text)
    verify_retraction(note)


ODD_NOTES: dict[str, Callable[[bytes], bytes]] = {
    "space after": lambda text: text + b" ",
    "no newline": lambda text: text[:-1],
    "DOS line ends": lambda text: text.replace(b"\n", b"\r\n"),
    "no indentation": lambda text: json.dumps(json.loads(text)).encode() + b"\n",
    "key twice": lambda text: text.replace(b'"report": ', b'"report": "r-b",\n "report": ', 1),
    "key twice in a record": lambda text: text.replace(b'"prev": ', b'"prev": "",\n "prev": ', 1),
    "number that is none": lambda text: text.replace(b'"seq": 1,', b'"seq": NaN,'),
    "number too long": lambda text: text.replace(b'"seq": 1,', b'"seq": ' + b"9" * 5000 + b","),
    "deep": lambda _: b'{"a":' * 50_000,
}


@pytest.mark.parametrize("name", ODD_NOTES)
def test_a_note_of_retraction_is_what_was_written(tmp_path: Path, name: str) -> None:
    desk = Desk(tmp_path)
    report = desk.prepare(desk.find("a", A))
    desk.send(report)
    desk.retract(report)
    note = desk.out / f"hashclient-report-{report.id}-retraction.json"
    text = note.read_bytes()
    edited = ODD_NOTES[name](text)
    assert edited != text
    note.write_bytes(edited)
    with pytest.raises(VerificationError):
        verify_retraction(note)


def test_records_of_a_note_of_retraction_stand_in_their_order(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    report = desk.prepare(desk.find("a", A))
    desk.send(report)
    desk.retract(report)
    note = desk.out / f"hashclient-report-{report.id}-retraction.json"
    document = json.loads(note.read_bytes())
    genesis, *others = document["records"]
    assert [record["event"] for record in others] == ["report-packaged", "report-retracted"]
    prepared = json.loads(
        next(r.line for r in read(desk.settings.layout.audit) if r.event == "report-submitted")
    )
    for records in (
        [genesis, others[1], others[0]],
        [genesis, others[0], others[0], others[1]],
        [genesis, others[1], others[1]],
        [genesis, *others, genesis],
        [genesis, prepared, others[1]],
    ):
        note.write_bytes(json.dumps({**document, "records": records}, indent=1).encode() + b"\n")
        with pytest.raises(VerificationError):
            verify_retraction(note)


def test_a_chain_of_custody_goes_across_the_files_of_the_log(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    first, second = desk.find("a", A), desk.find("b", b"b")
    assert desk.audit.rotate() is not None
    desk.quarantine(first)
    assert desk.audit.rotate() is not None
    report = desk.prepare(first)
    assert desk.send(report).error is None
    found = verify_package(package_of(desk, report))
    lines = (package_of(desk, report) / "custody.jsonl").read_bytes().splitlines()
    events = [json.loads(line)["event"] for line in lines]
    assert events[:4] == ["genesis", "match", "quarantine-sealed", "quarantined"]
    assert "segment" not in events and "segment-closed" not in events
    assert "archived_seq" not in json.loads(lines[-1])["data"]

    # The match is in an archived file, which is missing: the owner of the log is still known.
    (desk.settings.layout.audit / "log-000001.jsonl").unlink()
    other = desk.prepare(second)
    assert desk.send(other).error is None
    again = verify_package(package_of(desk, other))
    assert again.public_key == found.public_key
    lines = (package_of(desk, other) / "custody.jsonl").read_bytes().splitlines()
    assert [json.loads(line)["event"] for line in lines][:2] == ["genesis", "report-prepared"]
    assert json.loads(lines[-1])["data"]["archived_seq"] == 4
    (desk.settings.layout.audit / "log-000002.jsonl").unlink()
    assert desk.audit.rotate() is not None
    (desk.settings.layout.audit / "log-000003.jsonl").unlink()
    desk.retract(other)
    note = desk.out / f"hashclient-report-{other.id}-retraction.json"
    assert verify_retraction(note).record.data["reason"] == "a mistake"


def log_together(desk: Desk, *matches: Match) -> None:
    """Log matches again in one append, so that one signature covers all of them."""
    desk.audit.append(
        [Event("match", {"id": m.id, "path": m.path, "size": m.size}) for m in matches],
        durable=True,
    )


def custody_of(desk: Desk, report: Report) -> list[dict[str, Any]]:
    lines = (package_of(desk, report) / "custody.jsonl").read_bytes().splitlines()
    return [json.loads(line) for line in lines]


def test_of_matches_that_were_signed_together_only_those_of_the_report_are_handed_over(
    tmp_path: Path,
) -> None:
    desk = Desk(tmp_path)
    first, second, third = desk.find("a", A), desk.find("b", b"b"), desk.find("c", b"c")
    log_together(desk, third, first, second)
    (logged,) = [r for r in read(desk.settings.layout.audit, event="match") if r.sig is None][1:]
    report = desk.prepare(first)
    assert desk.send(report).error is None
    assert verify_package(package_of(desk, report)).document.report == report.id
    lines = custody_of(desk, report)
    assert all("sig" in line for line in lines)
    (copy,) = [line for line in lines if line["event"] == "record-signed"]
    assert copy["data"] == {"record": json.loads(logged.line)}
    text = json.dumps(lines)
    assert second.id not in text and third.id not in text
    assert [line["event"] for line in lines].count("match") == 1
    verify(desk.settings.layout.audit)

    # The record of `first` was copied for the earlier package, and is not copied again.
    other = desk.prepare(first, third, again=True)
    assert desk.send(other).error is None
    verify_package(package_of(desk, other))
    copies = [line for line in custody_of(desk, other) if line["event"] == "record-signed"]
    assert [c["data"]["record"]["data"]["id"] for c in copies] == [first.id, third.id]
    assert copies[0] == copy


def test_a_record_that_no_signature_covers_is_not_copied(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    first, second = desk.find("a", A), desk.find("b", b"b")
    log_together(desk, first, second)
    report = desk.prepare(first)
    log = desk.settings.layout.audit / "log.jsonl"
    lines = log.read_bytes().splitlines(keepends=True)
    (at,) = [n for n, line in enumerate(lines) if b'"sig"' not in line]
    record = parse_record(lines[at].rstrip(b"\n"), "")
    body = encode_body("match", {**record.data, "size": 7})
    forged, _ = encode_record(record.seq, format_time(record.time), body, record.prev, None)
    log.write_bytes(b"".join([*lines[:at], forged, *lines[at + 1 :]]))
    error = desk.send(report).error
    assert error is not None and "does not follow the record before it" in error.message
    assert b"record-signed" not in log.read_bytes()


def test_a_copy_is_of_an_earlier_record_that_is_whole(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    match, other = desk.find("a", A), desk.find("b", b"b")
    log_together(desk, match, other)
    genesis, *_, unsigned, last = read(desk.settings.layout.audit)
    record = json.loads(unsigned.line)
    wrong: tuple[dict[str, Any], ...] = (
        {"record": {**record, "seq": 9_999}},
        {"record": {**record, "data": {**record["data"], "size": 7}}},
        {"record": json.loads(last.line), "more": 1},
        {"record": []},
        {},
    )
    for data in wrong:
        desk.audit.append([Event("record-signed", data)], durable=True)
        *_, forged = read(desk.settings.layout.audit)
        before = genesis.line + b"\n" + forged.line + b"\n"
        bound = {"custody_sha256": hashlib.sha256(before).hexdigest()}
        desk.audit.append([Event("report-packaged", bound)], durable=True)
        *_, packaged = read(desk.settings.layout.audit)
        with pytest.raises(VerificationError):
            verify_custody(before + packaged.line + b"\n")
    desk.audit.append([Event("record-signed", {"record": record})], durable=True)
    *_, copy = read(desk.settings.layout.audit)
    before = genesis.line + b"\n" + copy.line + b"\n"
    bound = {"custody_sha256": hashlib.sha256(before).hexdigest()}
    desk.audit.append([Event("report-packaged", bound)], durable=True)
    *_, packaged = read(desk.settings.layout.audit)
    assert verify_custody(before + packaged.line + b"\n").records == 3


@pytest.mark.parametrize("line", [b"ab", b""])
def test_a_chain_of_short_lines_takes_little_memory(line: bytes) -> None:
    chain = (line + b"\n") * 200_000
    tracemalloc.start()
    try:
        with pytest.raises(VerificationError, match="line 1: broken JSON"):
            verify_custody(chain)
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()
