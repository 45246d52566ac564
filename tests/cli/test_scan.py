"""`hashclient scan`, the real command: its output, its messages, and its exit codes."""

from __future__ import annotations

import json
import os
import pty
import random
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from fixtures.generate import make_tree
from hashclient.core.kinds import Kind
from tests.kit import (
    ROOT,
    Run,
    arguments,
    bytes_path,
    call,
    checked,
    csv_of,
    digests_of,
    edit_manifest,
    environment,
    make_state,
    run,
    write_tree,
)

LISTED = {"e-1": b"listed one", "e-2": b"the second that is listed"}
SCHEMA = json.loads((ROOT / "docs" / "jsonl.schema.json").read_text())
HEX = [digest for data in LISTED.values() for digest in digests_of(data)]


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_state(tmp_path_factory.mktemp("site"), {"base": csv_of(LISTED)})


@pytest.fixture(scope="module")
def stale(tmp_path_factory: pytest.TempPathFactory) -> Path:
    state = make_state(tmp_path_factory.mktemp("stale"), {"base": csv_of(LISTED)})
    edit_manifest(state, "base", expires="2020-01-02T03:04:05Z")
    return state


@pytest.fixture
def own_state(state: Path, tmp_path: Path) -> Path:
    """A state directory that a test may damage."""
    return Path(shutil.copytree(state, tmp_path / "own-state"))


@pytest.fixture
def clean(tmp_path: Path) -> Path:
    return write_tree(tmp_path / "clean", {"a": b"benign", "b/c": b"also benign", "b/d": b""})


@pytest.fixture
def listed(tmp_path: Path) -> Path:
    files = {"a": b"benign", "b/bad": LISTED["e-1"], "worse": LISTED["e-2"]}
    return write_tree(tmp_path / "listed", files)


def scan(state: Path, *args: object, **kwargs: Any) -> Run:
    """Scan in this process, or in a new process if the scan needs its own environment."""
    command = ("--state-dir", state, "scan", *args)
    return run(*command, **kwargs) if kwargs else call(*command)


def scan_jsonl(state: Path, *args: object, **kwargs: Any) -> Run:
    """Scan, and check that every line keeps the documented format."""
    result = scan(state, "--format", "jsonl", *args, **kwargs)
    assert result.out.isascii()
    for line in result.lines:
        jsonschema.Draft202012Validator(SCHEMA).validate(line)
        assert next(iter(line)) == "type"
    summary = result.summary
    assert summary["inputs"] == sum(summary[kind] for kind in Kind)
    assert summary["exit_code"] == result.code
    for kind in set(Kind) - ({Kind.CLEAN} if "--show-all" not in args else set()):
        assert summary[kind] == sum(line["type"] == kind for line in result.lines)
    return result


def test_a_clean_tree(state: Path, clean: Path) -> None:
    result = scan(state, clean)
    assert (result.code, result.err) == (0, "")
    lines = result.out.splitlines()
    assert lines[0] == "3 inputs: 3 clean, 0 matches, 0 conflicts, 0 skipped, 0 unread"
    assert lines[2].startswith("list base, generation 1, fresh until ")
    assert lines[-1].startswith("exit 0: ")


def test_matches_are_reported_with_their_entry_and_no_digest(state: Path, listed: Path) -> None:
    result = scan(state, listed)
    assert result.code == 10
    assert result.err.startswith("next: `hashclient quarantine add`")
    assert sorted(re.sub(r"  \[[a-z0-9]{10}\]", "", s) for s in result.out.splitlines()[:2]) == [
        f"match     {listed}/b/bad  base e-1 (synthetic; md5, sha1, sha256 agree)",
        f"match     {listed}/worse  base e-2 (synthetic; md5, sha1, sha256 agree)",
    ]
    assert not any(digest in result.out for digest in HEX)


def test_the_lines_for_scripts(state: Path, listed: Path) -> None:
    result = scan_jsonl(state, listed)
    assert result.code == 10
    matches = {line["path"]: line for line in result.lines[:-1]}
    line = matches[f"{listed}/b/bad"]
    assert re.fullmatch("[a-z0-9]{10}", line.pop("id"))
    assert line.pop("first_seen") <= line.pop("last_seen")
    assert line == {
        "type": "match",
        "schema": 1,
        "path": f"{listed}/b/bad",
        "size": len(LISTED["e-1"]),
        "list": "base",
        "entry": "e-1",
        "category": "synthetic",
        "state": "found",
        "in_place": True,
        "generation": 1,
        "algorithms": ["md5", "sha1", "sha256"],
    }
    summary = result.summary
    assert summary["lists"] == [{"name": "base", "generation": 1, "fresh": True}]
    assert (summary["inputs"], summary["match"], summary["clean"]) == (3, 2, 1)
    assert not any(digest in result.out for digest in HEX)


def test_all_and_show_digests(state: Path, listed: Path) -> None:
    result = scan_jsonl(state, "--show-all", "--show-digests", "--no-inventory", listed)
    assert result.outcomes == {
        f"{listed}/a": "clean",
        f"{listed}/b/bad": "match",
        f"{listed}/worse": "match",
    }
    by_path = {line["path"]: line for line in result.lines[:-1]}
    assert list(by_path[f"{listed}/worse"]["digests"].values()) == digests_of(LISTED["e-2"])
    # No entry has the size of the file, so no digest was computed.
    assert "digests" not in by_path[f"{listed}/a"]


@pytest.mark.slow
def test_every_kind_of_outcome_adds_up(own_state: Path, tmp_path: Path) -> None:
    md5, sha1, _ = digests_of(b"disputed")
    rows = csv_of(LISTED) + f"e-3,{'0' * 31}1,{sha1},,8,synthetic\n".encode()
    state = make_state(tmp_path / "site", {"base": rows, "other": csv_of({"x": LISTED["e-1"]})})
    tree = write_tree(
        tmp_path / "tree", {"a": b"clean", "b": LISTED["e-1"], "c": b"disputed", "d.tmp": b""}
    )
    (tree / "link").symlink_to("a")
    os.mkfifo(tree / "pipe")
    result = scan_jsonl(state, "--show-all", "--exclude", "*.tmp", tree, tmp_path / "nope")
    assert result.code == 11
    assert result.outcomes == {
        f"{tree}/a": "clean",
        f"{tree}/b": "match",
        f"{tree}/c": "conflict",
        f"{tree}/d.tmp": "skipped",
        f"{tree}/link": "skipped",
        f"{tree}/pipe": "skipped",
        f"{tmp_path}/nope": "unread",
    }
    (match,) = (line for line in result.lines if line["type"] == "match")
    assert [hit["list"] for hit in match["more"]] == ["other"]
    text = scan(state, tree)
    assert f"conflict  {tree}/c  base e-3 (synthetic; sha1 agrees, others do not)" in text.out
    assert md5 not in text.out


def test_files_can_be_named(state: Path, listed: Path) -> None:
    assert scan_jsonl(state, "--show-all", listed / "a", listed / "b" / "bad").outcomes == {
        f"{listed}/a": "clean",
        f"{listed}/b/bad": "match",
    }


@pytest.mark.slow
def test_names_of_any_bytes(state: Path, tmp_path: Path) -> None:
    names = [b"\xff\xfe", b"new\nline", b"\x1b[31m", b"-rf", "grün".encode()]
    raw = os.fsencode(tmp_path) + b"/t"
    Path(os.fsdecode(raw)).mkdir()
    for name in names:
        Path(os.fsdecode(raw + b"/" + name)).write_bytes(LISTED["e-1"])
    expected = {raw + b"/" + name for name in names}
    result = scan_jsonl(state, raw)
    assert {bytes_path(line) for line in result.lines[:-1]} == expected
    text = scan(state, raw)
    assert all(line.isprintable() for line in text.out.splitlines())
    assert text.out.count("match  ") == len(names)
    assert scan_jsonl(state, raw + b"/\xff\xfe").code == 10
    assert scan_jsonl(state, "--", b"-rf", cwd=tmp_path / "t").outcomes == {"-rf": "match"}
    # The result is the same in any locale of the terminal.
    assert scan(state, raw, env={"LC_ALL": "C", "PYTHONIOENCODING": "ascii"}).code == 10
    # Names of files do not depend on the locale either: the program uses Python's UTF-8 mode.
    ascii_names = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    assert f"match     {tmp_path}/t/grün  " in scan(state, raw, env=ascii_names).out


@pytest.mark.slow
def test_an_audit_log_and_never_a_digest(own_state: Path, listed: Path) -> None:
    scan(own_state, listed)
    shown = run("--state-dir", own_state, "audit", "show", "--format", "jsonl")
    events = [json.loads(line)["event"] for line in shown.out.splitlines()]
    assert events[-4:] == ["scan-start", "match", "match", "scan-end"]
    assert run("--state-dir", own_state, "audit", "verify").code == 0
    assert not any(digest in shown.out for digest in HEX)


@pytest.mark.sampled
@pytest.mark.parametrize("what", ["empty", "only-skipped", "missing"])
def test_without_a_checked_input_a_scan_ends_with_3(state: Path, tmp_path: Path, what: str) -> None:
    tree = tmp_path / what
    if what != "missing":
        tree.mkdir()
    if what == "only-skipped":
        os.mkfifo(tree / "pipe")
    result = scan(state, tree)
    assert result.code == 3
    assert ("there was nothing to check" in result.out) == (what == "empty")


@pytest.mark.slow
def test_a_stale_list_still_scans_and_says_so(stale: Path, clean: Path, listed: Path) -> None:
    result = scan(stale, clean)
    assert result.code == 7
    assert "warning: list base is stale: it expired 2020-" in result.err
    assert "hint: the configuration that was read does not contain its provider" in result.err
    assert "STALE" in result.out
    assert scan_jsonl(stale, clean).summary["lists"][0]["fresh"] is False
    assert scan(stale, listed).code == 11


def test_a_clock_before_the_last_check_proves_nothing(own_state: Path, clean: Path) -> None:
    times = {"checked_at": "2999-01-01T00:00:00Z", "expires": "2999-02-01T00:00:00Z"}
    edit_manifest(own_state, "base", **times)
    assert scan(own_state, clean).code == 7


@pytest.mark.sampled
@pytest.mark.parametrize(("tree", "code"), [("clean", 9), ("listed", 11)])
def test_an_audit_log_that_cannot_be_written(
    own_state: Path, request: pytest.FixtureRequest, tree: str, code: int
) -> None:
    shutil.rmtree(own_state / "audit")
    (own_state / "audit").touch()
    result = scan_jsonl(own_state, request.getfixturevalue(tree))
    assert result.code == code
    assert "audit" in result.err


# Files for the output


def test_output_goes_to_a_file(state: Path, listed: Path, tmp_path: Path) -> None:
    report = tmp_path / "report.jsonl"
    report.write_text("old\n" * 1000)
    result = scan(state, "--format", "jsonl", "--output", report, listed)
    assert (result.code, result.out, result.err) == (10, "", "")
    written = Run(10, report.read_text(), "")
    assert written.summary["match"] == 2


@pytest.mark.slow
@pytest.mark.parametrize("where", ["no/such/dir/file", ".", "a\x1bb/c"])
def test_an_output_that_cannot_be_opened(
    state: Path, listed: Path, tmp_path: Path, where: str
) -> None:
    result = scan(state, "--output", where, listed, cwd=tmp_path)
    assert result.code == 2
    assert "hint: " in result.err
    assert all(line.isprintable() for line in result.err.splitlines())


@pytest.mark.sampled
@pytest.mark.parametrize(("tree", "code"), [("clean", 8), ("listed", 11)])
@pytest.mark.parametrize("how", ["full", "gone", "closed", "file"])
def test_an_output_that_cannot_be_written(
    state: Path, request: pytest.FixtureRequest, how: str, tree: str, code: int
) -> None:
    command = ["--state-dir", state, "scan", request.getfixturevalue(tree)]
    if how == "file":
        result = run(*command, "--output", "/dev/full")
        assert result.code == code
        assert "cannot write the output /dev/full: No space left" in result.err
        log = call("--state-dir", state, "audit", "show", "--format", "jsonl", "--limit", "4").out
        events = [json.loads(line)["event"] for line in log.splitlines()]
        # Writing fails after the end of the scan was logged, and the end is not logged again.
        assert events[-1] == "scan-end" != events[-2]
        return
    read, write = os.pipe()
    os.close(read)
    target = os.open("/dev/full", os.O_WRONLY) if how == "full" else write
    done = subprocess.run(
        arguments(*command),
        env=environment(),
        stdout=target,
        stderr=subprocess.PIPE,
        text=True,
        timeout=60,
        check=False,
        preexec_fn=(lambda: os.close(1)) if how == "closed" else None,
    )
    os.close(write)
    if target != write:
        os.close(target)
    checked(Run(done.returncode, "", done.stderr))
    if how == "gone":
        assert done.returncode == (3 if code == 8 else code)
        assert "nobody reads the output any more" in done.stderr
        return
    assert done.returncode == code
    assert "cannot write the output" in done.stderr


@pytest.mark.sampled
@pytest.mark.parametrize("args", [["--help"], ["scan", "--help"], ["--version"], ["status"]])
def test_no_output_of_any_kind_is_lost_silently(state: Path, args: list[str]) -> None:
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            arguments("--state-dir", state, *args),
            env=environment(),
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=60,
            check=False,
        )
    checked(Run(done.returncode, "", done.stderr))
    assert done.returncode in {2, 8}


@pytest.mark.slow
@pytest.mark.parametrize("how", ["full", "closed"])
def test_an_unusable_stderr_changes_no_verdict(stale: Path, listed: Path, how: str) -> None:
    """The exit codes stay the same if warnings and errors cannot be written to stderr."""
    for args, code in (
        (["scan", listed], 11),
        (["scan", "--jobs", "0", listed], 2),
        (["--state-dir", "/nope", "scan", listed], 8),
    ):
        with Path("/dev/full").open("wb") as full:
            done = subprocess.run(
                arguments("--state-dir", stale, *args),
                env=environment(),
                stdout=subprocess.DEVNULL,
                stderr=full,
                timeout=60,
                check=False,
                preexec_fn=(lambda: os.close(2)) if how == "closed" else None,
            )
        assert done.returncode == code


@pytest.mark.slow
def test_progress_is_drawn_on_a_terminal_and_only_there(state: Path, listed: Path) -> None:
    def talk(*options: str, term: str = "xterm") -> bytes:
        ours, theirs = pty.openpty()
        process = subprocess.Popen(
            arguments("--state-dir", state, *options, "scan", "--jobs", "2", listed),
            env=environment(TERM=term),
            stdout=subprocess.DEVNULL,
            stderr=theirs,
        )
        os.close(theirs)
        said = b""
        while True:
            try:
                block = os.read(ours, 65536)
            except OSError:
                break
            if not block:
                break
            said += block
        os.close(ours)
        assert process.wait(60) == 10
        return said

    assert b"\x1b[" in talk()
    assert talk("--quiet") == b""
    assert b"\x1b" not in talk(term="dumb")
    assert "\x1b" not in scan(state, listed).err


# Options, environment, configuration


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ([], "missing argument"),
        (["--jobs", "0", "."], "--jobs"),
        (["--jobs", "many", "."], "--jobs"),
        (["--jobs", "257", "."], "--jobs"),
        (["--format", "xml", "."], "'xml' is not one of"),
        (["--frob", "."], "no such option"),
        (["--output"], "requires an argument"),
    ],
)
def test_wrong_options(state: Path, args: list[str], message: str) -> None:
    result = call("--state-dir", state, "scan", *args)
    assert result.code == 2
    assert message in result.err.lower()
    assert "hint: see `hashclient " in result.err
    assert result.out == ""


def test_a_scan_before_the_first_fetch_is_refused(tmp_path: Path, clean: Path) -> None:
    result = scan(tmp_path / "new", clean)
    assert result.code == 8
    assert "no list has been fetched" in result.err
    assert "hint: run `hashclient init" in result.err
    assert not (tmp_path / "new").exists()


def test_a_list_that_is_configured_must_be_there(own_state: Path, clean: Path) -> None:
    table = '[providers.main]\nurl = "https://lists.example.org"\nroot_sha256 = "00"\n'
    (own_state / "config.toml").write_text(table + 'lists = ["base", "missing"]\n')
    result = scan(own_state, clean)
    assert result.code == 8
    assert "list missing has never been fetched" in result.err


CASES = [
    ("jobs = 3", 0),
    ('format = "jsonl"', 0),
    ("show_all = true", 0),
    ('exclude = ["*"]', 3),
    ("one_file_system = true", 0),
    ("follow_symlinks = false", 0),
    ('jobs = "many"', 2),
    ("jobs = [1]", 2),
    ("jobs = 1979-05-27", 2),
    ('exclude = "*.iso"', 2),
    ("exclude = [[1]]", 2),
    ("exclude = { a = 1 }", 2),
    ("show_all = 7", 2),
    ('format = "xml"', 2),
    ("frobnicate = 1", 2),
    ('"a\\u001bb" = 1', 2),
]


@pytest.mark.parametrize(("line", "code"), CASES)
def test_defaults_in_the_configuration(own_state: Path, clean: Path, line: str, code: int) -> None:
    (own_state / "config.toml").write_text(f"[scan]\n{line}\n")
    result = call("--state-dir", own_state, "scan", clean)
    assert result.code == code
    if code == 2:
        assert "hint: " in result.err
        assert all(text.isprintable() for text in result.err.splitlines())
    # Other commands ignore the defaults of `scan`.
    assert call("--state-dir", own_state, "lookup", "0" * 32).code == 0


@pytest.mark.slow
def test_flags_outrank_the_environment_which_outranks_the_file(
    own_state: Path, listed: Path, tmp_path: Path
) -> None:
    (own_state / "config.toml").write_text('[scan]\nformat = "jsonl"\nexclude = ["worse"]\n')
    from_file = scan(own_state, listed)
    assert (from_file.summary["match"], from_file.summary["skipped"]) == (1, 1)
    env = {"HASHCLIENT_SCAN_EXCLUDE": "bad x*", "HASHCLIENT_SCAN_JOBS": "2"}
    from_environment = scan(own_state, listed, env=env)
    assert from_environment.outcomes == {f"{listed}/worse": "match"}
    assert from_environment.summary["skipped_by_reason"] == {"excluded": 1}
    from_flags = scan(own_state, "--exclude", "a", listed, env=env)
    assert from_flags.summary["match"] == 2
    assert scan(own_state, listed, env={"HASHCLIENT_SCAN_JOBS": "x"}).code == 2
    # Options, environment and configuration have the same precedence for the paths of state and
    # configuration.
    env = {"HASHCLIENT_STATE_DIR": str(own_state)}
    assert run("scan", listed, env=env).summary["match"] == 1
    other = tmp_path / "other.toml"
    other.write_text("[scan]\nshow_all = true\n")
    assert "clean  " in run("scan", listed, env=env | {"HASHCLIENT_CONFIG": str(other)}).out
    other.write_text(f'state_dir = "{own_state}"\n')
    assert run("--config", other, "scan", listed).code == 10


def test_help_works_with_a_broken_configuration(own_state: Path) -> None:
    (own_state / "config.toml").write_text("frob = ")
    assert call("--state-dir", own_state, "scan", "--help").code == 0
    assert call("--state-dir", own_state, "scan", "-h").code == 0
    broken = call("--state-dir", own_state, "scan", ".")
    assert broken.code == 2
    assert "config.toml is not valid" in broken.err


@pytest.mark.slow
def test_the_seal_key_has_to_be_the_one(own_state: Path, listed: Path, tmp_path: Path) -> None:
    key = (own_state / "seal.key").read_text().strip()
    other = "1" * 64
    (own_state / "seal.key").unlink()
    assert scan(own_state, listed).code == 8
    assert scan(own_state, listed, env={"HASHCLIENT_SEAL_KEY": key}).code == 10
    wrong = scan(own_state, listed, env={"HASHCLIENT_SEAL_KEY": other})
    assert wrong.code == 8
    assert "sealed with another key" in wrong.err
    assert "hint: " in wrong.err
    bad = scan(own_state, listed, env={"HASHCLIENT_SEAL_KEY": key[:-1] + "x"})
    assert bad.code == 2
    assert key[:-1] not in bad.err
    file = tmp_path / "key"
    file.write_text(key)
    file.chmod(0o640)
    options = ["--state-dir", own_state, "--seal-key-file", file, "scan", listed]
    assert run(*options).code == 2
    file.chmod(0o600)
    assert run(*options).code == 10
    env = {"HASHCLIENT_SEAL_KEY_FILE": str(file)}
    assert scan(own_state, listed, env=env).code == 10


# Options that change how a scan works, but not its result


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, set[str]]:
    """A tree of 900 files, a state that lists 30 of them, and the paths of these 30."""
    site = tmp_path_factory.mktemp("large")
    tree = site / "tree"
    make_tree(tree, files=900, total_bytes=6_000_000, seed=5)
    files = sorted(path for path in tree.rglob("*") if path.is_file() and path.stat().st_size)
    chosen = random.Random(5).sample(files, 30)
    rows = csv_of({f"e-{n}": path.read_bytes() for n, path in enumerate(chosen)})
    return make_state(site / "site", {"base": rows}), tree, {str(path) for path in chosen}


@pytest.mark.slow
@pytest.mark.parametrize("jobs", ["1", "2", "4", "32"])
def test_several_processes_find_the_same(large: tuple[Path, Path, set[str]], jobs: str) -> None:
    state, tree, chosen = large
    result = scan_jsonl(state, "--show-all", "--jobs", jobs, "--no-inventory", tree)
    assert result.code == 10
    assert {path for path, kind in result.outcomes.items() if kind == "match"} == chosen
    assert result.summary["inputs"] == len(result.outcomes) == 900


@pytest.mark.slow
def test_a_second_scan_finds_the_same(large: tuple[Path, Path, set[str]]) -> None:
    state, tree, chosen = large
    for _ in range(2):
        result = scan_jsonl(state, tree)
        assert set(result.outcomes) == chosen
        assert result.summary["inputs"] == 900


@pytest.mark.slow
def test_the_files_found_are_those_that_hashdeep_finds(
    large: tuple[Path, Path, set[str]], tmp_path: Path
) -> None:
    hashdeep = shutil.which("hashdeep")
    if hashdeep is None:
        pytest.skip("hashdeep is not installed")
    _, tree, chosen = large
    known = write_tree(
        tmp_path / "known", {f"{n}": Path(path).read_bytes() for n, path in enumerate(chosen)}
    )
    options = ["-c", "md5,sha256", "-l", "-r"]
    listing = subprocess.run(
        [hashdeep, *options, known], capture_output=True, check=True, timeout=60
    )
    sums = tmp_path / "known.hashdeep"
    sums.write_bytes(listing.stdout)
    # Copies under other names match, but a changed file does not.
    copy = Path(shutil.copytree(tree, tmp_path / "copy"))
    for path in sorted(chosen)[:5]:
        moved = copy / Path(path).relative_to(tree)
        moved.write_bytes(moved.read_bytes()[:-1] + b"\x00")
        shutil.copy(path, copy / f"copy-{Path(path).name}")
    theirs = subprocess.run(
        [hashdeep, "-m", "-k", sums, *options[2:], copy],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    state = make_state(tmp_path / "site", {"base": listing.stdout})
    ours = scan_jsonl(state, copy)
    assert len(ours.outcomes) == 30
    assert set(ours.outcomes) == set(theirs.stdout.splitlines())


@pytest.mark.slow
def test_a_path_that_cannot_be_read_hides_no_other(state: Path, tmp_path: Path) -> None:
    """An unreadable argument does not change the outcomes of the other arguments."""
    tree = write_tree(tmp_path / "t", dict.fromkeys(("closed", "dir/f", "bad"), LISTED["e-1"]))
    (tree / "closed").chmod(0)
    (tree / "dir").chmod(0)
    gone = f"{tmp_path}/gone"
    odd = os.fsencode(f"{tmp_path}/") + b"\xff\n"
    unread = {
        f"{tree}/closed": "permission denied",
        f"{tree}/dir": "permission denied",
        f"{tree}/dir/f": "permission denied",
        f"{tree}/bad/": "not a directory",
        gone: "no such file or directory",
        "": "no such file or directory",
        os.fsdecode(odd): "no such file or directory",
        "x" * 5000: "file name too long",
    }
    for listed, code in ((True, 11), (False, 3)):
        paths = [*unread, f"{tree}/bad"] if listed else list(unread)
        result = scan_jsonl(state, *map(os.fsencode, paths), unprivileged=True)
        assert result.code == code
        reasons = {bytes_path(line): line.get("reason") for line in result.lines[:-1]}
        matched = {os.fsencode(f"{tree}/bad"): None} if listed else {}
        assert reasons == {os.fsencode(path): why for path, why in unread.items()} | matched
        text = scan(state, *map(os.fsencode, paths), unprivileged=True)
        assert text.code == code
        assert len([line for line in text.out.splitlines() if line.startswith("unread ")]) == 8
    (tree / "dir").chmod(0o755)


@pytest.mark.slow
@pytest.mark.parametrize(
    "content", [b"{", b"", b'{"format": "hashclient-mounts/2", "mounts": []}', None]
)
def test_a_scan_that_does_not_know_what_was_mounted_is_not_whole(
    own_state: Path, clean: Path, listed: Path, content: bytes | None
) -> None:
    """If `mounts.json` is damaged, missing shares cannot be noticed, so the exit code is 8."""
    assert scan(own_state, clean).code == 0
    path = own_state / "mounts.json"
    if content is None:
        path.unlink()
        path.mkdir()
    else:
        path.write_bytes(content)
    asked = scan_jsonl(own_state, clean)
    assert (asked.code, asked.summary["clean"]) == (8, 3)
    assert "mounts.json" in asked.err
    # A damaged file is replaced, but a file of another version is not changed.
    again = content in {b"{", b""}
    assert scan(own_state, clean).code == (0 if again else 8)
    path.write_bytes(b"{") if again else None
    assert scan(own_state, listed).code == 11


@pytest.mark.slow
def test_a_relative_path_in_a_directory_that_was_removed_is_a_usage_error(
    state: Path, tmp_path: Path, listed: Path
) -> None:
    for words, code in (("scan .", 2), ("watch .", 2), ("scan --files-from names", 2)):
        gone = tmp_path / "gone"
        gone.mkdir()
        script = 'rmdir "$PWD"; exec "$@"'
        done = subprocess.run(
            ["bash", "-c", script, "-", *arguments("--state-dir", state, *words.split())],
            cwd=gone,
            env=environment(),
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == code
        assert "the working directory was removed" in done.stderr
        assert "internal" not in done.stderr
