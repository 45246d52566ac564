"""The one-file tool for recipients, in an empty environment without any package."""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
import zipfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest

from docs.verify.bundle import bundle, modules
from fixtures.desk import A, Desk
from hashclient.core.errors import VerificationError
from hashclient.packages.answer import parse_answer
from hashclient.packages.document import Document
from hashclient.packages.index import check, extract
from hashclient.quarantine.age import load_identities, write_identity
from hashclient.quarantine.evidence import opener_of
from tests.kit import Run, call
from tests.tampered import TAMPERINGS

ROOT = Path(__file__).parents[2]
VECTORS = ROOT / "tests/vectors/package"
ANSWERS = ROOT / "tests/vectors/answer"
pytestmark = pytest.mark.skipif(
    shutil.which("openssl") is None or shutil.which("age") is None, reason="no openssl or no age"
)


@pytest.fixture(scope="module")
def tool(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tool") / "hashclient-verify"
    path.write_bytes(bundle())
    return path


def use(tool: Path, *words: object) -> Run:
    """Run the tool without site packages, environment variables and the project's directory."""
    done = subprocess.run(
        [sys.executable, "-I", "-S", str(tool), *map(str, words)],
        cwd=tool.parent,
        env={},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert "Traceback" not in done.stderr
    return Run(done.returncode, done.stdout, done.stderr)


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Desk:
    directory = tmp_path_factory.mktemp("desk")
    public = write_identity(directory / "recipient.key", datetime(2026, 1, 31, tzinfo=UTC))
    desk = Desk(
        directory,
        f'[report.to.sealed]\nkind = "package"\ndirectory = "{directory / "out"}"\n'
        f'recipients = ["{public}"]\n',
    )
    match = desk.find("a", A)
    desk.quarantine(match)
    assert desk.send(desk.prepare(match, desk.find(b"b\xff", b"second"))).error is None
    third = desk.find("c", b"third")
    assert desk.send(desk.prepare(third, to="sealed", seal_evidence=True)).error is None
    return desk


def folder_of(desk: Desk) -> Path:
    (path,) = (p for p in desk.out.iterdir() if p.is_dir())
    return path


def sealed_of(desk: Desk) -> Path:
    (path,) = desk.out.glob("*.tar.age")
    return path


@pytest.mark.slow
def test_it_is_one_small_file_that_holds_no_compiled_module(tool: Path) -> None:
    assert tool.stat().st_size < 1_000_000
    assert bundle() == tool.read_bytes()
    with zipfile.ZipFile(tool) as archive:
        assert all(name.endswith(".py") for name in archive.namelist())
    rooms = {name.split(".")[1] for name in modules() if name.startswith("hashclient.")}
    assert rooms == {"audit", "cli", "core", "formats", "packages", "system"}
    version = use(tool, "--version")
    assert (version.code, version.out[:18]) == (0, "hashclient-verify ")


@pytest.mark.slow
def test_vectors_have_the_same_results_as_in_the_package(tool: Path) -> None:
    for folder in (p for p in sorted(VECTORS.iterdir()) if p.is_dir()):
        expected = json.loads((folder / "expect.json").read_text())
        (path,) = (p for p in folder.iterdir() if p.name != "expect.json")
        found = use(tool, path, "--format", "jsonl")
        if expected["expect"] == "refused":
            assert (found.code, found.lines[0]["result"]) == (6, "refused"), folder.name
            continue
        assert found.code == 0, found.err
        assert {row["report"] for row in found.lines} == {expected["report"]}
        assert {row["public_key"] for row in found.lines} == {expected["public_key"]}
        if "matches" in expected:
            assert [row["match"] for row in found.lines] == expected["matches"]
            assert {row["custody_records"] for row in found.lines} == {expected["custody"]}


@pytest.mark.slow
def test_vectors_of_answers_have_the_same_results_as_in_the_package(tool: Path) -> None:
    for folder in (p for p in sorted(ANSWERS.iterdir()) if p.is_dir()):
        expected = json.loads((folder / "expect.json").read_text())
        words = (folder / "answer.json", "--format", "jsonl")
        found, ours = use(tool, *words), call("report", "verify", *words)
        assert (found.code, found.out) == (ours.code, ours.out), folder.name
        if expected["expect"] == "refused":
            assert (found.code, found.lines[0]["result"]) == (6, "refused"), folder.name
            continue
        assert found.code == 0, found.err
        assert {row["result"] for row in found.lines} == {"answer"}
        assert {row["report"] for row in found.lines} == {expected["report"]}
        assert {row["public_key"] for row in found.lines} == {expected["key"]}
        assert [row["match"] for row in found.lines] == expected["matches"]


@pytest.mark.slow
def test_an_answer_is_shown_and_compared_with_the_reporters_key(tool: Path) -> None:
    path = ANSWERS / "with-requests" / "answer.json"
    found, ours = use(tool, path), call("report", "verify", path)
    assert (found.code, found.out) == (ours.code, ours.out)
    assert found.out.startswith("the answer verifies\n") and "keep until" in found.out
    refused = use(tool, path, "--public-key", "0" * 64)
    assert refused.code == 6 and "answer to another reporter" in refused.err


@pytest.mark.slow
def test_each_tampering_is_refused(tool: Path, desk: Desk, tmp_path: Path) -> None:
    assert len(TAMPERINGS) >= 60
    copies = []
    for number, edit in enumerate(TAMPERINGS.values()):
        copy = tmp_path / str(number)
        shutil.copytree(folder_of(desk), copy)
        edit(copy)
        copies.append(copy)
    found = use(tool, *copies, folder_of(desk), "--format", "jsonl")
    assert found.code == 6
    *refused, good, other = found.lines
    assert {row["result"] for row in refused} == {"refused"} and len(refused) == len(TAMPERINGS)
    assert good["result"] == other["result"] == "verifies"
    assert found.err.count(": error: ") == len(TAMPERINGS)


@pytest.mark.slow
def test_it_says_what_the_command_says(tool: Path, desk: Desk) -> None:
    key = desk.directory / "recipient.key"
    for output_format in ("table", "csv", "jsonl"):
        words = (folder_of(desk), sealed_of(desk), "--identity", key, "--format", output_format)
        ours = call("report", "verify", *words)
        theirs = use(tool, *words)
        assert (theirs.code, theirs.out) == (ours.code, ours.out) == (0, ours.out)
        assert ours.out.count("synthetic") == 3


def test_a_package_that_is_exchanged_before_it_is_extracted_leaves_nothing(
    desk: Desk, tmp_path: Path
) -> None:
    keys = [desk.officer, desk.directory / "recipient.key"]
    opener = opener_of([key for path in keys for key in load_identities(path)])
    first = check(folder_of(desk))
    other = msgspec.structs.replace(first, path=sealed_of(desk))
    for checked, has_error in ((other, True), (first, False)):
        done = extract(checked, tmp_path, opener)
        assert isinstance(done.error, VerificationError) is has_error
        assert len(list(tmp_path.iterdir())) == (not has_error)


@pytest.mark.slow
def test_evidence_is_extracted_with_the_key_and_nothing_is_overwritten(
    tool: Path, desk: Desk, tmp_path: Path
) -> None:
    done = use(tool, folder_of(desk), "--identity", desk.officer, "--extract", tmp_path)
    assert done.code == 0, done.err
    (folder,) = tmp_path.iterdir()
    (file,) = folder.iterdir()
    assert file.read_bytes() == A and file.suffix == ".bin"
    assert (folder.stat().st_mode & 0o777, file.stat().st_mode & 0o777) == (0o700, 0o600)
    again = use(tool, folder_of(desk), "--identity", desk.officer, "--extract", tmp_path)
    assert again.code == 8 and "extracted already" in again.err
    assert (
        call(
            "report", "verify", folder_of(desk), "--identity", desk.officer, "--extract", tmp_path
        ).code
        == 8
    )


@pytest.mark.slow
def test_a_key_that_does_not_fit(tool: Path, desk: Desk, tmp_path: Path) -> None:
    assert use(tool, sealed_of(desk)).code == 2
    wrong = tmp_path / "wrong.key"
    write_identity(wrong, datetime(2026, 1, 31, tzinfo=UTC))
    assert use(tool, sealed_of(desk), "--identity", wrong).code == 5
    words = (folder_of(desk), "--identity", wrong, "--extract", tmp_path)
    target = tmp_path / folder_of(desk).name.removeprefix("hashclient-report-")
    for is_tool in (True, False):
        found = use(tool, *words) if is_tool else call("report", "verify", *words)
        assert found.code == 5 and "evidence that the key does not open: 1 match" in found.err
        target.rmdir()  # the target directory does not exist
    (tmp_path / "no.key").write_text("no key\n")
    assert use(tool, sealed_of(desk), "--identity", tmp_path / "no.key").code == 2


@pytest.mark.slow
def test_it_writes_an_answer_that_is_received(tool: Path, tmp_path: Path) -> None:
    key, answer = tmp_path / "answers.pem", tmp_path / "answer.json"
    make = ["openssl", "genpkey", "-algorithm", "ed25519", "-out", str(key)]
    subprocess.run(make, check=True, capture_output=True, timeout=60)
    desk = Desk(tmp_path)
    match = desk.find("a", A)
    desk.quarantine(match)
    assert desk.send(desk.prepare(match)).error is None
    words = ["--key", key, "--body", "Polizei Köln", "--reference", "4711", "--output", answer]
    asks = ["--keep-until", "2026-12-31", "--text", "order 17/4"]
    made = use(tool, "answer", folder_of(desk), *words, *asks)
    assert (made.code, made.out) == (0, ""), made.err
    pinned = parse_answer(answer.read_bytes()).key
    config = desk.settings.state_dir / "config.toml"
    text = config.read_text().replace(
        "[report.to.police]\n", f'[report.to.police]\nkey = "{pinned}"\n'
    )
    config.write_text(text)
    received = call("--state-dir", desk.settings.state_dir, "report", "receive", answer)
    assert received.code == 0, received.err
    assert "Polizei Köln: 1 match accepted; reference 4711; asks to keep until 2026" in received.out
    again = call("--state-dir", desk.settings.state_dir, "report", "receive", answer)
    assert again.code == 6 and "received before" in again.err
    # The tool overwrites no file, and writes no answer for a package that does not verify.
    assert use(tool, "answer", folder_of(desk), *words).code == 2
    (folder_of(desk) / "README.txt").write_text("x")
    answer.unlink()
    assert use(tool, "answer", folder_of(desk), *words).code == 6
    assert not answer.exists()


@pytest.mark.slow
@pytest.mark.parametrize("cut", [30, 300, -1])
def test_a_sealed_package_that_was_cut(tool: Path, desk: Desk, tmp_path: Path, cut: int) -> None:
    (tmp_path / "x.tar.age").write_bytes(sealed_of(desk).read_bytes()[:cut])
    key = desk.directory / "recipient.key"
    assert use(tool, tmp_path / "x.tar.age", "--identity", key).code == 6


@pytest.mark.slow
def test_without_openssl_or_age_nothing_is_verified(tool: Path, desk: Desk, tmp_path: Path) -> None:
    key = desk.directory / "recipient.key"
    for missing, package in (("openssl", folder_of(desk)), ("age", sealed_of(desk))):
        (tmp_path / missing).mkdir()
        other = {"openssl": "age", "age": "openssl"}[missing]
        (tmp_path / missing / other).symlink_to(shutil.which(other) or "")
        done = subprocess.run(
            [sys.executable, "-I", "-S", str(tool), str(package), "--identity", str(key)],
            env={"PATH": str(tmp_path / missing)},
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert done.returncode == 2 and f"no program called {missing}" in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("before", "code", "words"),
    [
        ("ulimit -f 0", 8, "cannot write a temporary file"),
        ("exec > /dev/full", 8, "cannot write the output"),
        ("exec 2> /dev/full", 0, ""),
        ("export PYTHONIOENCODING=ascii", 0, ""),
    ],
)
def test_a_full_disk_and_a_terminal_of_few_characters_are_no_bugs(
    tool: Path, desk: Desk, tmp_path: Path, before: str, code: int, words: str
) -> None:
    (tmp_path / "文").symlink_to(folder_of(desk))
    done = subprocess.run(
        ["/bin/sh", "-c", f'{before}; exec "$@"', "sh", sys.executable, "-S", str(tool), "文"],
        cwd=tmp_path,
        env={},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == code and words in done.stderr
    assert "internal error" not in done.stderr


@pytest.mark.slow
def test_programs_in_the_current_directory_are_not_run(
    tool: Path, desk: Desk, tmp_path: Path
) -> None:
    """With an empty entry in `PATH`, a program from an unpacked file could fake a verification."""
    for name in ("openssl", "age"):
        (tmp_path / name).write_text("#!/bin/sh\ntouch was-run\nexec cat\n")
        (tmp_path / name).chmod(0o755)
    key = desk.directory / "recipient.key"
    words = [str(folder_of(desk)), str(sealed_of(desk)), "--identity", str(key)]
    answer = ["answer", words[0], "--key", str(key), "--body", "x", "--output", "answer.json"]
    for path, code in ((f":{os.environ['PATH']}", 0), (":.", 2)):
        done = subprocess.run(
            [sys.executable, "-I", "-S", str(tool), *words],
            cwd=tmp_path,
            env={"PATH": path},
            capture_output=True,
            check=False,
            timeout=60,
        )
        assert done.returncode == code, done.stderr
        subprocess.run(
            [sys.executable, "-I", "-S", str(tool), *answer],
            cwd=tmp_path,
            env={"PATH": path},
            capture_output=True,
            check=False,
            timeout=60,
        )
        assert not (tmp_path / "was-run").exists()


@pytest.mark.slow
def test_twenty_packages_are_indexed_in_three_seconds_of_processor_time(
    tool: Path, tmp_path: Path
) -> None:
    desk = Desk(tmp_path)
    for number in range(20):
        match = desk.find(f"file {number}", b"content %d" % (number % 5))
        desk.quarantine(match)
        assert desk.send(desk.prepare(match)).error is None
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    found = use(tool, *desk.out.iterdir(), "--format", "jsonl")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert found.code == 0 and len(found.lines) == 20
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 3


#: A script that says for each document, one a line, whether it is valid, and prints its content.
_FITS = """
import json, sys
sys.path.insert(0, sys.argv[1])
import msgspec
from hashclient.packages.document import Document
for line in sys.stdin:
    try:
        msgspec.convert(json.loads(line), Document)
        print("fits")
    except ValueError:
        print("refused")
"""


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the path of keys to each value within a JSON value."""
    found = [path] if path else []
    items = value.items() if isinstance(value, dict) else ()
    for key, inner in enumerate(value) if isinstance(value, list) else items:
        found += places(inner, (*path, key))
    return found


@pytest.mark.slow
def test_the_stand_in_for_msgspec_is_as_strict(tool: Path, desk: Desk) -> None:
    """Each value of a document in turn is replaced by another value, or removed."""
    text = (folder_of(desk) / "document.json").read_text()
    others: tuple[Any, ...] = (
        *(None, True, 0, -1, 1.5, "", "x", "r-bbbbbbbbbb", "bbbbbbbbbb\n", [], ["md5"], {}),
        *("2026-01-31T12:00:00Z", "2026-01-31T12:00:00", "2026-01-31", "2026-01-31 12:00:00+01:00"),
        *("20260131T120000Z", "2026-13-31T12:00:00Z", "2026-01-31T12:00:00.123456Z", "Z"),
        *(f"2026-01-31T12:00:00{end}" for end in (".1234567890Z", "+0130", "+01:60", "+24:00")),
    )
    documents = []
    for path in places(json.loads(text)):
        for other in (*others, "remove"):
            values = json.loads(text)
            place = values
            for key in path[:-1]:
                place = place[key]
            if other == "remove":
                del place[path[-1]]
            else:
                place[path[-1]] = other
            documents.append(json.dumps(values))
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", _FITS, str(tool)],
        input="\n".join(documents),
        env={},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    expected = []
    for document in documents:
        try:
            msgspec.convert(json.loads(document), Document)
            expected.append("fits")
        except ValueError:
            expected.append("refused")
    found = done.stdout.split()
    assert "fits" in expected and "refused" in expected
    assert [d for d, a, b in zip(documents, found, expected, strict=True) if a != b] == []
