"""After any failure, the file of `--output` does not contain the output of an earlier run."""

from __future__ import annotations

import contextlib
import io
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import pytest

from hashclient.cli import main as command
from hashclient.cli.output import OutputError, Terminated
from hashclient.cli.sorter import Sorter
from hashclient.config import settings as config
from hashclient.core.errors import ExitCode
from hashclient.formats.registry import FORMATS
from tests.contract.readers import Report
from tests.contract.test_formats import TABLE
from tests.kit import (
    UNMEASURED,
    arguments,
    call,
    csv_of,
    digests_of,
    environment,
    is_python_for_all,
    make_state,
    restored_signals,
    run,
    write_tree,
)

LISTED = b"a benign file on the list"
MD5 = digests_of(LISTED)[0]
YESTERDAY = f"clean     yesterday.txt\n1 input: 1 clean\nexit 0: {ExitCode.OK.meaning}\n"


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("state")
    state = make_state(directory, {"baseline": csv_of({"e-1": LISTED})})
    write_tree(directory / "files", {"listed": LISTED, "other": b"not on it"})
    return state


@pytest.fixture
def files(state: Path) -> Path:
    return state.parent / "files"


@pytest.fixture
def report(tmp_path: Path) -> Path:
    """Return the file that `--output` names, with the output of an earlier run in it."""
    path = tmp_path / "report"
    path.write_text(YESTERDAY)
    return path


def read(report: Path, name: str) -> Report:
    text = report.read_text()
    assert "yesterday" not in text
    return TABLE[name].read(text)


# Failures before the first line of output

#: For each failure: the words before the command, the words after its `--output`, variables, and
#: the exit code.
FAILURES: dict[str, tuple[list[str], list[str], dict[str, str], int]] = {
    "a configuration that is missing": (["--config", "/nowhere/x.toml"], ["."], {}, 2),
    "a broken configuration": (["--config", "broken.toml"], ["."], {}, 2),
    "a configuration of something else": (["--config", "wrong.toml"], ["."], {}, 2),
    "no state": (["--state-dir", "new"], ["."], {}, 8),
    "no home directory": (["--state-dir", "~nobody-at-all/x"], ["."], {}, 2),
    "a damaged list": (["--state-dir", "damaged"], ["."], {}, 8),
    "no such option": ([], ["--frob", "."], {}, 2),
    "no such option with a value": ([], ["--frob=1", "."], {}, 2),
    "a flag with a value": ([], ["--show-all=yes", "."], {}, 2),
    "an option without its value": ([], [".", "--exclude"], {}, 2),
    "a wrong value": ([], ["--jobs", "many", "."], {}, 2),
    "nothing to scan": ([], [], {}, 2),
    "a wrong variable": ([], ["."], {"HASHCLIENT_SCAN_JOBS": "none"}, 2),
    "no such global option": (["--frob"], ["."], {}, 2),
}


@pytest.fixture
def broken(state: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current directory, with all files that `FAILURES` names."""
    (tmp_path / "broken.toml").write_text("frob = ")
    (tmp_path / "wrong.toml").write_text("[scan]\nfrob = 1\n")
    shutil.copytree(state, tmp_path / "damaged")
    (tmp_path / "damaged" / "lists" / "baseline" / "manifest.json").write_text("{")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.sampled
@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("failure", FAILURES)
def test_a_scan_that_fails_before_it_begins_leaves_no_old_report(
    state: Path,
    broken: Path,
    report: Path,
    monkeypatch: pytest.MonkeyPatch,
    failure: str,
    name: str,
) -> None:
    before, after, variables, code = FAILURES[failure]
    for variable, value in variables.items():
        monkeypatch.setenv(variable, value)
    where = [] if "--state-dir" in before else ["--state-dir", state]
    result = call(*where, *before, "scan", "--output", report, "--format", name, *after)
    assert (result.code, result.out) == (code, "")
    found = read(report, name)
    assert (found.exit_code, found.files) == (code, [])
    assert found.run is not None and found.run.failure is not None
    assert found.run.failure.replace("_", "") in result.err.replace("_", "")


@pytest.mark.parametrize("where", [0, 1, 2])
def test_wherever_it_stands_among_words_that_are_wrong(
    state: Path, report: Path, where: int
) -> None:
    words: list[object] = ["--show-all=yes", "--frob=1", "--exclude"]
    words[where:where] = [f"--output={report}"]
    assert call("--state-dir", state, "scan", *words).code == 2
    assert read(report, "text").exit_code == 2


def test_an_output_that_the_environment_or_the_configuration_names(
    state: Path, tmp_path: Path, report: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = tmp_path / "other.toml"
    settings.write_text(f'[scan]\noutput = "{report}"\nformat = "jsonl"\n')
    words = ("--config", settings, "--state-dir", tmp_path / "new", "scan")
    assert call(*words, ".").code == 8
    assert read(report, "jsonl").exit_code == 8
    report.write_text(YESTERDAY)
    assert call(*words, "--frob", ".").code == 2
    assert read(report, "jsonl").exit_code == 2
    report.write_text(YESTERDAY)
    monkeypatch.setenv("HASHCLIENT_SCAN_OUTPUT", str(report))
    assert call("--config", "/nowhere/x.toml", "scan", ".").code == 2
    assert read(report, "text").exit_code == 2


@pytest.mark.parametrize(
    ("words", "code"),
    [(["lookup"], 2), (["lookup", "zz"], 2), (["lookup", "--from", "/nowhere/x"], 2)],
)
def test_a_lookup_that_fails(state: Path, report: Path, words: list[str], code: int) -> None:
    name, *rest = words
    done = call("--state-dir", state, name, "--output", report, "--format", "jsonl", *rest)
    assert done.code == code
    assert read(report, "jsonl").exit_code == code


@pytest.mark.parametrize("words", [["matches"], ["matches", "list"]])
@pytest.mark.parametrize("prefix", ["HASHCLIENT_MATCHES", "HASHCLIENT_MATCHES_LIST"])
def test_the_list_of_matches_is_in_the_file_that_a_variable_names(
    state: Path, report: Path, words: list[str], prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed = call("--state-dir", state, *words, "--format", "csv")
    monkeypatch.setenv(f"{prefix}_OUTPUT", str(report))
    monkeypatch.setenv(f"{prefix}_FORMAT", "csv")
    done = call("--state-dir", state, *words)
    assert (done.code, done.out) == (0, "") and report.read_text() == listed.out != ""
    # The file that the variable names stays unchanged if `--output` names another file, or if
    # another command runs.
    report.write_text(YESTERDAY)
    other = report.with_name("other")
    assert call("--state-dir", state, *words, "--output", other).code == 0
    assert call("--state-dir", state, "matches", "show", "none").code == 2
    assert report.read_text() == YESTERDAY and other.read_text() == listed.out


@pytest.mark.parametrize("words", [["--list", "review"], ["list", "--path", "close"]])
def test_an_option_of_matches_may_have_the_name_of_a_subcommand_as_its_value(
    state: Path, report: Path, words: list[str]
) -> None:
    report.write_text(YESTERDAY)
    refused = call("--state-dir", state, "matches", *words, "--output", report, "--format", "x")
    assert refused.code == 2 and YESTERDAY not in report.read_text()


@pytest.mark.parametrize("name", FORMATS)
def test_matches_that_cannot_be_listed(
    state: Path, tmp_path: Path, report: Path, name: str
) -> None:
    own = Path(shutil.copytree(state, tmp_path / "own"))
    (own / "matches.db").write_bytes(b"no database" * 100)
    done = call("--state-dir", own, "matches", "--output", report, "--format", name)
    assert (done.code, done.out) == (8, "")
    found = read(report, name)
    assert (found.exit_code, found.files) == (8, [])


@pytest.mark.parametrize(
    ("error", "code"), [(KeyboardInterrupt(), 130), (Terminated(), 143), (TypeError("x"), 1)]
)
@pytest.mark.parametrize("name", FORMATS)
def test_a_signal_or_a_bug_before_it_begins(
    state: Path,
    report: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    error: BaseException,
    code: int,
) -> None:
    def fail(**_: object) -> NoReturn:
        raise error

    monkeypatch.setattr(config, "resolve_settings", fail)
    words = ["--state-dir", str(state), "scan", "--output", str(report), "--format", name, "."]
    with restored_signals(), contextlib.redirect_stderr(io.StringIO()):
        assert command._run(words) == code
    found = read(report, name)
    assert (found.exit_code, found.files) == (code, [])
    assert found.run is not None
    assert (found.run.failure == "internal error: TypeError") == (code == 1)


def test_killed_before_the_configuration_is_read(state: Path, report: Path) -> None:
    code = (
        "import os, hashclient.config.settings as c; from hashclient.cli.main import main\n"
        "c.resolve_settings = lambda **_: os.kill(os.getpid(), 9)\n"
        "main()"
    )
    words = ["--state-dir", str(state), "scan", "--output", str(report), "."]
    done = subprocess.run(
        [sys.executable, "-c", code, *words],
        env=environment(**UNMEASURED),
        capture_output=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == -signal.SIGKILL
    assert report.read_text() == ""


# Runs that do not fail


@pytest.mark.parametrize(
    "words",
    [["scan", "--help"], ["scan", "-h"], ["matches", "show", "--help"], ["matches", "show", "x"]],
)
def test_a_command_without_a_report_leaves_the_old_one(
    state: Path, report: Path, words: list[str]
) -> None:
    name, *rest = words
    call("--state-dir", state, name, "--output", report, *rest)
    assert report.read_text() == YESTERDAY


def test_completion_leaves_the_old_one(state: Path, report: Path) -> None:
    words = f"hashclient --state-dir {state} scan --output {report} --fo"
    env = {
        "_HASHCLIENT_COMPLETE": "bash_complete",
        "COMP_WORDS": words,
        "COMP_CWORD": str(len(words.split()) - 1),
    }
    assert "--format" in run(env=env).out
    assert report.read_text() == YESTERDAY


# Kinds of files for `--output`


@pytest.mark.parametrize("fails", [False, True])
def test_a_pipe_gets_one_report(state: Path, files: Path, tmp_path: Path, fails: bool) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    read_texts: list[str] = []
    reader = threading.Thread(target=lambda: read_texts.append(pipe.read_text()), daemon=True)
    reader.start()
    where = tmp_path / "new" if fails else state
    result = call("--state-dir", where, "scan", "--output", pipe, "--format", "jsonl", files)
    reader.join(60)
    assert result.code == (8 if fails else 10)
    assert TABLE["jsonl"].read(read_texts[0]).exit_code == result.code


@pytest.mark.slow
def test_devices(state: Path, files: Path, tmp_path: Path) -> None:
    shown = run("--state-dir", state, "scan", "--output", "/dev/stdout", files)
    assert (shown.code, TABLE["text"].read(shown.out).exit_code) == (10, 10)
    failed = run("--state-dir", tmp_path / "new", "scan", "--output", "/dev/stdout", files)
    assert (failed.code, TABLE["text"].read(failed.out).exit_code) == (8, 8)
    for device in ("/dev/null", "/dev/full"):
        failed = call("--state-dir", tmp_path / "new", "scan", "--output", device, files)
        assert failed.code == 8
        assert "no list" in failed.err  # the message names the first problem
    assert call("--state-dir", state, "scan", "--output", "/dev/null", files).code == 10


def test_a_link_is_followed(state: Path, files: Path, tmp_path: Path, report: Path) -> None:
    for name, target in (("link", report), ("dangling", tmp_path / "new-report")):
        link = tmp_path / name
        link.symlink_to(target)
        assert call("--state-dir", state, "scan", "--output", link, files).code == 10
        assert link.is_symlink()
        assert read(target, "text").exit_code == 10


def test_a_directory_is_refused(state: Path, files: Path, tmp_path: Path) -> None:
    for where in (tmp_path, tmp_path / "no" / "such" / "place"):
        result = call("--state-dir", state, "scan", "--output", where, files)
        assert result.code == 2
        assert "hint: " in result.err


@pytest.mark.parametrize("how", ["itself", "a link", "another name", "another path", "behind --"])
def test_an_input_is_never_emptied(state: Path, tmp_path: Path, how: str) -> None:
    """An input that was emptied would count as clean."""
    path = tmp_path / "listed"
    path.write_bytes(LISTED)
    (tmp_path / "link").symlink_to(path)
    (tmp_path / "other").hardlink_to(path)
    words: dict[str, tuple[object, ...]] = {
        "itself": ("--output", path, path),
        "a link": ("--output", tmp_path / "link", path),
        "another name": (path, "--output", tmp_path / "other"),
        "another path": ("--output", path, tmp_path, f"{tmp_path}/../{tmp_path.name}/listed"),
        "behind --": ("--frob", "--output", path, "--", path),
    }
    result = call("--state-dir", state, "scan", *words[how])
    assert result.code == 2
    assert "is an input as well" in result.err
    assert path.read_bytes() == LISTED
    path.write_text(f"{MD5}\n")
    result = call("--state-dir", state, "lookup", "--from", path, "--output", path)
    assert result.code == 2
    assert path.read_text() == f"{MD5}\n"


def test_neither_are_the_configuration_and_the_seal_key(state: Path, tmp_path: Path) -> None:
    for option, name in (("--config", "config.toml"), ("--seal-key-file", "seal.key")):
        path = tmp_path / name
        path.write_text("# what is in it stays\n")
        result = call("--state-dir", state, option, path, "scan", "--output", path, ".")
        assert result.code == 2
        assert "is an input as well" in result.err
        assert path.read_text() == "# what is in it stays\n"


@pytest.mark.slow
def test_only_its_owner_can_write_to_a_new_report(state: Path, files: Path, tmp_path: Path) -> None:
    for words in (["scan", files], ["--frob", "scan", files]):
        report = tmp_path / f"report-{len(words)}"
        place = words.index("scan") + 1
        words[place:place] = ["--output", report]
        run("--state-dir", state, *words, preexec=lambda: os.umask(0))
        assert report.stat().st_mode & 0o777 == 0o644


def test_a_report_may_lie_in_the_tree(state: Path, tmp_path: Path) -> None:
    tree = write_tree(tmp_path / "tree", {"other": b"not on it", "report": YESTERDAY.encode()})
    for code in (0, 10):
        done = call("--state-dir", state, "scan", "--show-all", "--output", tree / "report", tree)
        assert done.code == code
        found = read(tree / "report", "text")
        assert found.exit_code == code
        (tree / "listed").write_bytes(LISTED)


# Full disks, and other programs that write


@contextlib.contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """Simulate a full disk for the output and for the state directory."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def looks_complete(text: str, name: str) -> bool:
    if not text.endswith("\n"):
        return False
    try:
        return TABLE[name].read(text).exit_code is not None
    except (AssertionError, LookupError, ValueError):
        return False  # a cut output that cannot be parsed does not look complete


@pytest.mark.slow
@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("size", [0, 1, 60, 150])
def test_a_full_disk_leaves_no_report_that_looks_complete(
    state: Path, files: Path, report: Path, name: str, size: int
) -> None:
    for tree, codes in ((files, {11}), (files / "other", {8, 9}), (None, {2})):
        report.write_text(YESTERDAY)
        words = ["scan", "--output", report, "--format", name, *([tree] if tree else [])]
        with files_of_at_most(size):
            result = call("--state-dir", state, *words)
        assert result.code in codes
        assert ("cannot write the output" in result.err) == (tree is not None)
        text = report.read_text()
        assert len(text) <= size
        assert "yesterday" not in text and not looks_complete(text, name)


@pytest.mark.parametrize("size", [0, 10, 200])
def test_matches_for_which_there_is_no_room(
    state: Path, tmp_path: Path, report: Path, size: int
) -> None:
    """The list of matches has no last line, so a part of it would look complete."""
    own = Path(shutil.copytree(state, tmp_path / "own"))
    tree = write_tree(tmp_path / "tree", {f"listed-{n}": LISTED for n in range(20)})
    assert call("--state-dir", own, "scan", tree).code == 10
    with files_of_at_most(size):
        result = call("--state-dir", own, "matches", "--output", report)
    assert result.code == 8
    text = report.read_text()
    assert not [line for line in text.splitlines() if line.startswith("found ")]
    if size == 200:
        assert TABLE["text"].read(text).exit_code == 8


@pytest.mark.parametrize("output_format", FORMATS)
@pytest.mark.parametrize("paths", [(".",), ("other",)])
def test_a_sort_for_which_there_is_no_room_says_so(
    state: Path,
    files: Path,
    report: Path,
    output_format: str,
    paths: tuple[str, ...],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The report names the error at any exit code, because an empty file would look clean."""

    def add(*_: object) -> NoReturn:
        raise OutputError("cannot sort the outcomes: database or disk is full")

    monkeypatch.setattr(Sorter, "add", add)
    options = (
        "--show-all",
        "--no-inventory",
        "--format",
        output_format,
        "--output",
        report,
        "--sort",
    )
    result = call("--state-dir", state, "scan", *options, *(files / path for path in paths))
    assert result.code == (11 if paths == (".",) else 8)
    assert "cannot sort the outcomes" in result.err
    assert "cannot sort the outcomes" in report.read_text()


def test_of_two_runs_one_writes(state: Path, tmp_path: Path, report: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    words = ["--state-dir", state, "lookup", "--output", report]
    first = subprocess.Popen(
        arguments(*words, "--from", pipe), env=environment(), stderr=subprocess.PIPE, text=True
    )
    with pipe.open("w") as stream:  # the first run has opened the pipe
        second = call(*words, "0" * 32)
        assert second.code == 8
        assert "another run is writing to the output" in second.err
        assert report.read_text() == ""
        stream.write(f"{MD5}\n")
    _, err = first.communicate(timeout=60)
    assert err == ""
    assert first.returncode == 10
    assert read(report, "text").exit_code == 10
    assert call(*words, "0" * 32).code == 0
    assert TABLE["text"].read(report.read_text()).exit_code == 0


@contextlib.contextmanager
def locked_by_a_stranger(path: Path, *, shared: bool, orphaned: bool) -> Iterator[None]:
    """Lock a file as another account that may only read the file."""
    code = f"""
import fcntl, os, sys
fd = os.open(sys.argv[1], os.O_RDONLY)
fcntl.flock(fd, fcntl.{"LOCK_SH" if shared else "LOCK_EX"})
if {orphaned} and os.fork():
    os._exit(0)
print(os.getpid(), flush=True)
sys.stdin.read()
"""
    nobody = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")
    with subprocess.Popen(
        [*nobody, sys.executable, "-I", "-S", "-c", code, path],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdin is not None and process.stdout is not None
        assert process.stdout.readline().strip().isdigit()
        if orphaned:
            process.wait(timeout=60)
        yield
        process.stdin.close()
        process.stdout.read()  # wait until the process with the lock ends


@pytest.mark.sampled
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another account")
@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("orphaned", [False, True])
def test_a_lock_held_by_a_reader_does_not_keep_the_old_output(
    state: Path, files: Path, shared: bool, orphaned: bool
) -> None:
    if not is_python_for_all():
        pytest.skip("another account cannot run this Python")
    with tempfile.TemporaryDirectory() as directory:  # a directory that others may enter
        Path(directory).chmod(0o755)
        report = Path(directory) / "report.txt"
        report.write_text(YESTERDAY)
        report.chmod(0o644)
        words = ("--state-dir", state, "scan", "--output", report, files)
        with locked_by_a_stranger(report, shared=shared, orphaned=orphaned):
            assert call(*words).code == ExitCode.MATCH
            assert read(report, "text").exit_code == ExitCode.MATCH
            report.chmod(0o666)  # any account may lock it now
            refused = call(*words)
            assert refused.code == ExitCode.STATE
            assert "another run is writing to the output" in refused.err
        report.chmod(0o644)
        assert call(*words).code == ExitCode.MATCH


# `status`, whose output replaces the earlier file in one step


@pytest.fixture
def metrics(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "metrics" / "hashclient.prom"
    path.parent.mkdir()
    path.write_text("hashclient_status_exit_code 0.0\n")
    yield path
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize(
    ("before", "after"),
    [(["--config", "/nowhere/x.toml"], []), ([], ["--frob"]), (["--frob"], [])],
)
def test_metrics_of_a_status_that_fails_say_so(
    state: Path, metrics: Path, before: list[str], after: list[str]
) -> None:
    words = ("--format", "prometheus", "--output", metrics)
    result = call("--state-dir", state, *before, "status", *words, *after)
    assert result.code == 2
    samples = [line for line in metrics.read_text().splitlines() if line[0] != "#"]
    assert [line.split("{")[0] for line in samples] == [
        "hashclient_build_info",
        "hashclient_status_exit_code 2.0",
    ]


def test_a_status_that_fails_in_other_formats(state: Path, metrics: Path) -> None:
    words = ("--state-dir", state, "--config", "/nowhere/x.toml", "status", "--output", metrics)
    assert call(*words, "--format", "json").code == 2
    document = json.loads(metrics.read_text())
    assert document["exit_code"] == 2
    assert "/nowhere/x.toml" in document["problems"][0]
    assert call(*words).code == 2
    assert metrics.read_text().startswith("problem       ")


def test_a_status_that_is_interrupted(
    state: Path, metrics: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(**_: object) -> NoReturn:
        raise Terminated

    monkeypatch.setattr(config, "resolve_settings", fail)
    words = ("status", "--format", "prometheus", "--output", metrics)
    assert call("--state-dir", state, *words).code == 143
    assert "hashclient_status_exit_code 143.0\n" in metrics.read_text()


def test_a_status_that_cannot_be_written_leaves_the_old_one(state: Path, metrics: Path) -> None:
    words = ("status", "--format", "prometheus", "--output", metrics)
    with files_of_at_most(3):
        result = call("--config", "/nowhere", *words)
    assert result.code == 2
    assert "/nowhere" in result.err
    assert metrics.read_text() == "hashclient_status_exit_code 0.0\n"
