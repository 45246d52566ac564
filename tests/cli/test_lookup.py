"""`hashclient lookup`: digests instead of files, in every accepted form."""

from __future__ import annotations

import array
import contextlib
import fcntl
import hashlib
import json
import os
import subprocess
import termios
from pathlib import Path

import jsonschema
import pytest

from hashclient.core.kinds import Algorithm, Kind
from hashclient.lists.importers import importfile
from tests.kit import (
    ROOT,
    Run,
    arguments,
    call,
    csv_of,
    digests_of,
    edit_manifest,
    environment,
    make_state,
    run,
    wait_until,
)

LISTED = b"listed one"
MD5, SHA1, SHA256 = digests_of(LISTED)
CLEAN = digests_of(b"not listed")
VALIDATOR = jsonschema.Draft202012Validator(
    json.loads((ROOT / "docs" / "jsonl.schema.json").read_text())
)


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> Path:
    lists = {"base": csv_of({"e-1": LISTED, "e-2": b"listed two"})}
    return make_state(tmp_path_factory.mktemp("site"), lists)


def lookup(state: Path, *args: object) -> Run:
    return call("--state-dir", state, "lookup", *args)


def lookup_jsonl(state: Path, *args: object) -> Run:
    result = lookup(state, "--format", "jsonl", *args)
    for line in result.lines:
        VALIDATOR.validate(line)
    summary = result.summary
    assert summary["inputs"] == sum(summary[kind] for kind in Kind)
    assert (summary["files_read"], summary["bytes_read"]) == (0, 0)
    assert summary["exit_code"] == result.code
    return result


@pytest.mark.parametrize("digest", [MD5, SHA1, SHA256, SHA1.upper(), f"  {SHA256}\t"])
def test_one_digest_that_is_listed(state: Path, digest: str) -> None:
    result = lookup_jsonl(state, digest)
    assert result.code == 10
    (line, _) = result.lines
    assert (line["type"], line["list"], line["entry"]) == ("match", "base", "e-1")
    assert line["path"] == digest.strip().lower()
    assert line["size"] is None


@pytest.mark.parametrize("digest", CLEAN)
def test_one_digest_that_is_not(state: Path, digest: str) -> None:
    assert lookup(state, digest).code == 0
    result = lookup_jsonl(state, "--show-all", digest)
    assert result.outcomes == {digest: "clean"}


@pytest.mark.slow
def test_the_real_command_and_its_input(state: Path) -> None:
    given = f"{SHA1}  a\n{CLEAN[1]}  b\n".encode()
    command = ["--state-dir", state, "lookup", "--format", "jsonl", "--show-all", "--from", "-"]
    result = run(*command, stdin=given)
    assert (result.code, result.outcomes) == (10, {"a": "match", "b": "clean"})
    assert run(*command, stdin=b"").code == 3
    closed = run(*command, preexec=lambda: os.close(0))
    assert closed.code == 2
    assert "cannot read stdin" in closed.err


@pytest.mark.slow
def test_a_pipe_that_gives_nothing_yet_is_not_at_its_end(state: Path) -> None:
    """If another process sets the pipe to non-blocking, lines that come later are looked up."""
    reading, writing = os.pipe()
    os.set_blocking(reading, False)
    command = arguments("--state-dir", state, "lookup", "--format", "jsonl", "--from", "-")
    with subprocess.Popen(
        command, stdin=reading, stdout=subprocess.PIPE, env=environment(), text=True
    ) as process:
        os.close(reading)
        os.write(writing, f"{CLEAN[0]}\n".encode())
        # The command has read the bytes so far, and waits for more.
        wait_until(lambda: pending(writing) == 0, process.pid)
        wait_until(lambda: is_asleep(process.pid) or process.poll() is not None, process.pid)
        with contextlib.suppress(BrokenPipeError):
            os.write(writing, f"{MD5}\n".encode())
        os.close(writing)
        out, _ = process.communicate(timeout=60)
    assert Run(process.returncode, out, "").summary["inputs"] == 2
    assert process.returncode == 10


def pending(pipe: int) -> int:
    """Return how many bytes of a pipe are unread."""
    count = array.array("i", [0])
    fcntl.ioctl(pipe, termios.FIONREAD, count)
    return count[0]


def is_asleep(pid: int) -> bool:
    """Return whether all threads of a process are asleep."""
    states = []
    for task in Path(f"/proc/{pid}/task").glob("*/stat"):
        with contextlib.suppress(OSError):  # the process or thread has ended meanwhile
            states.append(task.read_text().rpartition(")")[2].split()[0])
    return set(states) == {"S"}


@pytest.mark.slow
def test_a_file_called_dash_is_not_stdin(state: Path, tmp_path: Path) -> None:
    (tmp_path / "-").write_text(f"{MD5}\n")
    command = ["--state-dir", state, "lookup", CLEAN[0], "--from", "./-"]
    assert run(*command, cwd=tmp_path, stdin=b"").code == 10
    assert run(*command[:-1], "-", cwd=tmp_path, stdin=b"").code == 0


@pytest.mark.parametrize(
    "text",
    [
        f"{MD5}\n",
        f"{SHA256} *name\n",
        f"SHA1 (name) = {SHA1}\n",
        f"%%%% HASHDEEP-1.0\n%%%% size,md5,sha256,filename\n10,{MD5},{SHA256},name\n",
        f"md5,sha1,sha256,size\n{MD5},{SHA1},{SHA256},10\n",
        f"\ufeffsha1\n{SHA1}\n",
    ],
)
def test_every_form_of_a_file_of_digests(state: Path, tmp_path: Path, text: str) -> None:
    path = tmp_path / "digests"
    path.write_text(text)
    result = lookup_jsonl(state, "--from", path, "--from", path)
    assert result.code == 10
    assert result.summary["match"] == 2


def test_a_row_has_to_agree_in_all_it_says(tmp_path: Path) -> None:
    lists = {
        "base": csv_of({"e-1": LISTED, "e-2": b"listed two"}),
        "weak": csv_of({"w": b"by md5 alone"}, algorithms=(Algorithm.MD5,), sized=False),
    }
    state = make_state(tmp_path, lists)
    path = tmp_path / "digests.csv"
    rows = [
        f"{MD5},{SHA1},,",
        f"{MD5},{CLEAN[1]},,",
        f"{CLEAN[0]},{SHA1},,10",
        f"{MD5},,,11",
        f"{MD5},{SHA1},{SHA256},10",
        f"{CLEAN[0]},,,",
        f"{digests_of(b'by md5 alone')[0]},{CLEAN[1]},,999",
    ]
    path.write_text("\n".join(["md5,sha1,sha256,size", *rows, ""]))
    result = lookup_jsonl(state, "--show-all", "--from", path)
    assert [line["type"] for line in result.lines[:-1]] == [
        "match",
        "conflict",
        "conflict",
        "clean",  # the digest of an entry with another size
        "match",
        "clean",
        "match",
    ]
    assert result.code == 11
    # Without --show-all the output is the same, except for clean inputs.
    brief = lookup_jsonl(state, "--from", path)
    assert [line["type"] for line in brief.lines[:-1]] == [
        line["type"] for line in result.lines[:-1] if line["type"] != "clean"
    ]
    of_a_run = {"started": "", "elapsed_s": 0}
    assert {**brief.summary, **of_a_run} == {**result.summary, **of_a_run}


def test_a_conflict_alone_is_no_verdict(state: Path, tmp_path: Path) -> None:
    path = tmp_path / "digests.csv"
    path.write_text(f"md5,sha1\n{MD5},{CLEAN[1]}\n")
    assert lookup(state, "--from", path).code == 3


def test_names_of_any_bytes(state: Path, tmp_path: Path) -> None:
    path = tmp_path / "sums"
    path.write_bytes(SHA1.encode() + b"  \xff\x1b[31m\n" + SHA1.encode() + b"  gr\xc3\xbcn\n")
    result = lookup_jsonl(state, "--from", path)
    assert [line.get("path_b64") for line in result.lines[:-1]] == ["/xtbMzFt", None]
    text = lookup(state, "--from", path)
    assert all(line.isprintable() for line in text.out.splitlines())


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ([], "nothing to look up"),
        (["zz"], "argument:1: not a digest in hexadecimal"),
        ([f"#{MD5}"], "argument:1: not a digest in hexadecimal"),
        ([MD5, ""], "argument:2: not a digest in hexadecimal"),
        ([MD5, MD5[:-1]], "argument:2: no digest has 31"),
        (["--from", "nope"], "cannot read nope"),
        (["--from", "."], "cannot read ."),
        (["--format", "xml", MD5], "'xml' is not one of"),
    ],
)
def test_impossible_lookups_are_refused(state: Path, args: list[str], message: str) -> None:
    result = lookup(state, *args)
    assert result.code == 2
    assert message in result.err
    assert "hint: " in result.err
    assert MD5 not in result.err


@pytest.mark.parametrize("end", ["\r", "\r\n"])
def test_each_line_is_a_row_however_it_ends(state: Path, tmp_path: Path, end: str) -> None:
    path = tmp_path / "sums"
    path.write_text(f"{CLEAN[1]}  a{end}{SHA1}  b{end}", newline="")
    result = lookup_jsonl(state, "--show-all", "--from", path)
    assert (result.code, result.outcomes) == (10, {"a": "clean", "b": "match"})


@pytest.mark.parametrize("between", "\0\x0b\x0c\x1c\x85\u2028", ids=ascii)
def test_a_row_behind_another_is_no_part_of_its_name(
    state: Path, tmp_path: Path, between: str
) -> None:
    path = tmp_path / "sums"
    path.write_text(f"{CLEAN[1]}  a{between}{SHA1}  b\n", newline="")
    result = lookup(state, "--from", path)
    assert result.code == 2
    assert f"sums:1: the character U+{ord(between):04X} within a line" in result.err


def test_an_error_after_a_match_does_not_hide_it(state: Path, tmp_path: Path) -> None:
    good, bad = tmp_path / "good", tmp_path / "bad"
    good.write_text(f"{SHA1}\n")
    bad.write_text("not a digest\n")
    result = lookup_jsonl(state, "--from", good, "--from", bad)
    assert result.code == 11
    assert "bad:1" in result.err
    good.write_text(f"{CLEAN[1]}\n")
    result = lookup_jsonl(state, "--from", good, "--from", bad)
    assert result.code == 2
    assert result.summary["inputs"] == 1


@pytest.mark.slow
def test_a_source_that_cannot_be_read_keeps_no_other_from_being_looked_up(
    state: Path, tmp_path: Path
) -> None:
    """The faulty source may be at any position among the sources, and may have any fault."""
    good, bad, closed, folder = (tmp_path / name for name in ("good", "bad", "closed", "folder"))
    bad.write_text("not a digest\n")
    closed.write_text(f"{SHA1}\n")
    closed.chmod(0)
    folder.mkdir()
    broken = ["--from", closed, "--from", bad, "--from", folder, "--from", tmp_path / "nope"]
    for found, code in ((SHA1, 11), (CLEAN[1], 2)):
        good.write_text(f"{found}\n")
        arguments = ["--format", "jsonl", *broken, "--from", good]
        result = run("--state-dir", state, "lookup", *arguments, unprivileged=True)
        assert (result.code, result.summary["inputs"]) == (code, 1)
        assert result.summary["match"] == (1 if code == 11 else 0)
        for name in (closed, folder, tmp_path / "nope"):
            assert f"cannot read {name}: " in result.err
        assert "bad:1: not a line" in result.err
        assert result.err.count("hashclient: ") == 4


def test_an_argument_that_is_none_hides_no_file(state: Path, tmp_path: Path) -> None:
    good = tmp_path / "good"
    good.write_text(f"{SHA1}\n")
    result = lookup(state, "zz", "--from", good)
    assert result.code == 11
    assert "argument:1" in result.err


@pytest.mark.slow
def test_long_files_are_judged_while_they_are_read(
    state: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importfile, "CHUNK_BYTES", 100)
    path = tmp_path / "long"
    clean = [hashlib.sha1(b"%d" % n, usedforsecurity=False).hexdigest() for n in range(500)]
    rows = list(clean)
    for number in (3, 4, 250, 499):
        rows[number] = SHA1
    path.write_text("".join(f"{row}\n" for row in rows))
    result = lookup_jsonl(state, "--show-digests", "--show-all", "--from", path)
    assert result.code == 10
    assert [line["path"] for line in result.lines if "path" in line] == rows
    assert (result.summary["match"], result.summary["clean"]) == (4, 496)
    # A wrong line does not undo the results of the rows before it.
    path.write_text("".join(f"{row}\n" for row in [*rows[:400], "wrong", *rows[400:]]))
    result = lookup_jsonl(state, "--from", path)
    assert result.code == 11
    assert "long:401" in result.err
    assert result.summary["match"] == 3


def test_without_digests_a_lookup_ends_with_3(state: Path, tmp_path: Path) -> None:
    path = tmp_path / "empty"
    path.touch()
    assert lookup(state, "--from", path).code == 3
    assert lookup(state, "--from", path, CLEAN[0]).code == 0


def test_digests_are_shown_when_asked_for(state: Path, tmp_path: Path) -> None:
    path = tmp_path / "sums"
    path.write_text(f"{SHA1}  name\n")
    assert SHA1 not in lookup(state, "--from", path).out
    assert f"sha1={SHA1}" in lookup(state, "--show-digests", "--from", path).out
    shown = lookup_jsonl(state, "--show-digests", "--from", path)
    assert shown.lines[0]["digests"] == {"sha1": SHA1}


def test_the_log_says_where_and_not_what(state: Path, tmp_path: Path) -> None:
    path = tmp_path / "digests"
    path.write_text(f"{CLEAN[0]}\n{MD5}\n")
    assert lookup(state, SHA256, "--from", path).code == 10
    log = call("--state-dir", state, "audit", "show", "--format", "jsonl", "--limit", "4").out
    assert f"{path}:2" in log
    assert "argument:1" in log
    for digest in (MD5, SHA1, SHA256, CLEAN[0]):
        assert digest not in log


def test_output_goes_to_a_file(state: Path, tmp_path: Path) -> None:
    result = lookup(state, "--format", "jsonl", "--output", tmp_path / "report", MD5)
    assert (result.code, result.out) == (10, "")
    assert Run(10, (tmp_path / "report").read_text(), "").summary["match"] == 1


def test_a_stale_list(tmp_path: Path) -> None:
    state = make_state(tmp_path / "site", {"base": csv_of({"e-1": LISTED})})
    edit_manifest(state, "base", expires="2020-01-01T00:00:00Z")
    assert lookup(state, CLEAN[0]).code == 7
    assert lookup(state, MD5).code == 11


def test_defaults_in_the_configuration(tmp_path: Path) -> None:
    state = make_state(tmp_path / "site", {"base": csv_of({"e-1": LISTED})})
    (state / "config.toml").write_text('[lookup]\nformat = "jsonl"\nshow_all = true\n')
    assert lookup(state, CLEAN[0]).outcomes == {CLEAN[0]: "clean"}
    (state / "config.toml").write_text("[lookup]\njobs = 3\n")
    result = lookup(state, CLEAN[0])
    assert result.code == 2
    assert "unknown key 'jobs' in [lookup]" in result.err
