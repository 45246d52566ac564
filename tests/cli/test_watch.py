"""`hashclient watch`: files written, moved or linked into a tree are checked; none is missed."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fixtures import unopened
from hashclient.audit import log
from tests.kit import (
    Site,
    arguments,
    csv_of,
    edit_manifest,
    environment,
    make_state,
    run,
    wait_until,
    write_tree,
)

LISTED = b"listed one"
TIMEOUT_S = 30


class Watching:
    """A running watch, whose output is JSON lines."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.said: queue.Queue[str] = queue.Queue()
        self._lines: queue.Queue[dict[str, Any]] = queue.Queue()
        threading.Thread(target=self._read_out, daemon=True).start()
        threading.Thread(target=self._read_err, daemon=True).start()

    def _read_out(self) -> None:
        if self.process.stdout is None:
            return
        for line in self.process.stdout:
            self._lines.put(json.loads(line))

    def _read_err(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.said.put(line)

    def next(self) -> dict[str, Any]:
        """Return the next printed outcome."""
        return self._lines.get(timeout=TIMEOUT_S)

    def paths(self, count: int) -> set[str]:
        """Return the paths of the next outcomes."""
        return {self.next()["path"] for _ in range(count)}

    def quiet(self) -> bool:
        """Return whether no further outcome was printed."""
        return self._lines.empty()

    def wait_for(self, text: str) -> None:
        """Wait for a text on stderr."""
        while text not in self.said.get(timeout=TIMEOUT_S):
            pass

    def stop(self) -> int:
        """Stop the watch, and return its exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(TIMEOUT_S)


@contextlib.contextmanager
def watching(state: Path, *words: object, **kwargs: Any) -> Iterator[Watching]:
    command = arguments(
        "--state-dir", state, "watch", "--format", "jsonl", "--settle", "1s", *words
    )
    with subprocess.Popen(
        command,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **kwargs,
    ) as process:
        watch = Watching(process)
        try:
            watch.wait_for("looked at everything")
            yield watch
        finally:
            process.kill()


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return make_state(tmp_path / "site", {"base": csv_of({"e-1": LISTED})})


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    return write_tree(tmp_path / "t", {"a": b"benign", "sub/b": b"also"})


@pytest.mark.slow
def test_a_file_that_is_there_already_is_found_first(state: Path, tree: Path) -> None:
    write_tree(tree, {"sub/c": LISTED})
    with watching(state, tree) as watch:
        line = watch.next()
        assert (line["type"], line["path"], line["entry"]) == ("match", str(tree / "sub/c"), "e-1")
        assert watch.stop() == 0


@pytest.mark.slow
def test_kinds_that_are_not_opened_are_counted_and_logged(state: Path, tree: Path) -> None:
    write_tree(tree, {"disk.img": unopened.disk()})
    with watching(state, tree) as watch:
        watch.wait_for("not opened 1, their content is not known: disk 1")
        write_tree(tree, {"m.dbx": unopened.store(), "c": LISTED})
        assert watch.next()["path"] == str(tree / "c")
        assert watch.stop() == 0
    records = [dict(record.data) for record in log.read(state / "audit")]
    logged = [data["not_opened"] for data in records if "not_opened" in data]
    assert logged[0] == {"disk": 1} and {"dbx": 1} in logged[1:]


@pytest.mark.slow
def test_an_empty_folder_is_no_failure(state: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    command = arguments("--state-dir", state, "watch", tmp_path / "empty")
    with subprocess.Popen(command, env=environment(), stderr=subprocess.PIPE, text=True) as process:
        watch = Watching(process)
        watch.wait_for("looked at everything: 0 inputs, exit 0")
        assert watch.stop() == 0


@pytest.mark.slow
def test_a_file_that_is_written_moved_or_linked_is_found(
    state: Path, tree: Path, tmp_path: Path
) -> None:
    elsewhere = write_tree(tmp_path / "elsewhere", {"m": LISTED, "l": LISTED, "d/x/y": LISTED})
    with watching(state, tree) as watch:
        (tree / "written").write_bytes(LISTED)
        (elsewhere / "m").rename(tree / "sub/moved")
        (tree / "linked").hardlink_to(elsewhere / "l")
        (elsewhere / "d").rename(tree / "dir")
        (tree / "sub/new").mkdir()
        (tree / "sub/new/deep").write_bytes(LISTED)
        (tree / "clean").write_bytes(b"benign")
        names = ["written", "sub/moved", "linked", "dir/x/y", "sub/new/deep"]
        assert watch.paths(len(names)) == {str(tree / name) for name in names}
        # A directory that was moved is watched at its new place.
        (tree / "dir").rename(tree / "sub/dir")
        watch.paths(1)
        (tree / "sub/dir/x/z").write_bytes(LISTED)
        assert str(tree / "sub/dir/x/z") in watch.paths(1)
        assert watch.stop() == 0
        assert watch.quiet()


@pytest.mark.slow
def test_what_is_excluded_is_not_checked_when_it_changes(state: Path, tree: Path) -> None:
    """A scan of the whole tree excludes the same files."""
    write_tree(tree, {"kept/x": b"benign", "cache/x": b"benign", "sub/tmp/x": b"benign"})
    with watching(state, tree, "--exclude", "tmp", "--exclude", f"{tree}/cache/*") as watch:
        for name in ("sub/tmp/listed", "cache/listed", "tmp", "kept/listed"):
            (tree / name).write_bytes(LISTED)
        assert watch.paths(1) == {str(tree / "kept/listed")}
        assert watch.stop() == 0
        assert watch.quiet()


@pytest.mark.slow
def test_a_name_of_any_bytes(state: Path, tree: Path) -> None:
    with watching(state, tree) as watch:
        with open(os.fsencode(tree) + b"/\xff\n", "wb") as file:  # noqa: PTH123 - any bytes
            file.write(LISTED)
        assert "path_b64" in watch.next()


@pytest.mark.slow
def test_matches_are_recorded_and_logged_before_they_are_printed(state: Path, tree: Path) -> None:
    with watching(state, tree) as watch:
        (tree / "x").write_bytes(LISTED)
        line = watch.next()
        assert line["id"] in (state / "audit" / "log.jsonl").read_text()
        assert watch.stop() == 0
    assert line["id"] in run("--state-dir", state, "matches").out
    assert run("--state-dir", state, "audit", "verify").code == 0


@pytest.mark.slow
def test_a_look_is_one_record_and_no_scan(state: Path, tree: Path) -> None:
    """Checking changed files is not logged as a scan: `status` shows the last whole scan."""
    with watching(state, tree) as watch:
        (tree / "x").write_bytes(LISTED)
        assert watch.next()["path"] == str(tree / "x")
        log = state / "audit/log.jsonl"  # the log has a record after the changed files were checked
        wait_until(lambda: '"watch-look"' in log.read_text(), watch.process.pid)
        assert watch.stop() == 0
    events = [json.loads(line) for line in (state / "audit/log.jsonl").read_text().splitlines()]
    names = [event["event"] for event in events]
    assert names[names.index("scan-start") :] == ["scan-start", "scan-end", "match", "watch-look"]
    look = events[-1]["data"]
    assert (look["arguments"], look["match"], look["exit_code"]) == (["1 changed files"], 1, 10)
    assert look["lists"] == [{"list": "base", "generation": 1, "fresh": True}]
    (last_scan,) = (event["data"] for event in events if event["event"] == "scan-end")
    assert last_scan["exit_code"] == 0


@pytest.mark.slow
def test_no_file_is_missed_when_the_event_queue_overflows(state: Path, tree: Path) -> None:
    limit = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())
    with watching(state, tree) as watch:
        watch.process.send_signal(signal.SIGSTOP)
        # Each file causes at least two events.
        for number in range(limit // 2 + 100):
            fd = os.open(tree / f"f{number}", os.O_CREAT | os.O_WRONLY)
            if number % 2000 == 0 or number > limit // 2 + 97:
                os.write(fd, LISTED)
            os.close(fd)
        wanted = {
            str(tree / f"f{n}")
            for n in range(limit // 2 + 100)
            if n % 2000 == 0 or n > limit // 2 + 97
        }
        watch.process.send_signal(signal.SIGCONT)
        assert watch.paths(len(wanted)) == wanted


@pytest.mark.slow
def test_the_state_directory_may_lie_within(state: Path, tmp_path: Path) -> None:
    with watching(state, tmp_path) as watch:
        (tmp_path / "x").write_bytes(LISTED)
        assert watch.next()["path"] == str(tmp_path / "x")
        assert watch.stop() == 0


@pytest.mark.slow
def test_a_path_that_cannot_be_watched_is_refused(state: Path, tree: Path) -> None:
    for path in (tree / "none", tree / "a", "/proc"):
        result = run("--state-dir", state, "watch", path)
        assert (result.code, result.out) == (2, "")


@pytest.mark.slow
def test_without_a_list_it_does_not_start(tmp_path: Path, tree: Path) -> None:
    (tmp_path / "state").mkdir()
    assert run("--state-dir", tmp_path / "state", "watch", tree).code == 8


@pytest.mark.slow
def test_a_root_that_is_removed_and_made_again_is_watched_again(state: Path, tree: Path) -> None:
    with watching(state, tree) as watch:
        tree.rename(tree.with_name("away"))
        assert watch.next()["type"] == "unread"
        write_tree(tree, {"sub/x": LISTED})
        assert watch.paths(1) == {str(tree / "sub/x")}
        watch.wait_for("looked at everything")
        (tree / "sub/y").write_bytes(LISTED)
        assert watch.paths(1) == {str(tree / "sub/y")}


@pytest.mark.slow
def test_new_lists_are_for_what_is_there_already(tmp_path: Path) -> None:
    with Site(tmp_path / "site") as site:
        site.publish(csv_of({"e-1": LISTED}), "base")
        assert site.call(*site.init_arguments()).code == 0
        assert site.call("fetch").code == 0
        tree = write_tree(tmp_path / "t", {"a": b"listed later"})
        with watching(site.state, tree) as watch:
            site.publish(csv_of({"e-2": b"listed later"}), "base")
            assert site.call("fetch").code == 0
            line = watch.next()
            assert (line["path"], line["entry"]) == (str(tree / "a"), "e-2")


@pytest.mark.slow
def test_a_stale_list_is_reported(state: Path, tree: Path) -> None:
    with watching(state, tree) as watch:
        edit_manifest(state, "base", expires="2020-01-01T00:00:00Z")
        (tree / "x").write_bytes(LISTED)
        watch.wait_for("list is stale: base")
        assert watch.paths(1) == {str(tree / "x")}


@pytest.mark.slow
def test_a_file_system_mounted_below_the_root_is_checked(state: Path, tree: Path) -> None:
    unshare = ["unshare", "--mount", "--propagation", "private"]
    if subprocess.run([*unshare, "true"], check=False, capture_output=True).returncode:
        pytest.skip("nothing may be mounted here")
    command = arguments("--state-dir", state, "watch", "--format", "jsonl", tree)
    # The watch and the script that mounts share one mount namespace.
    script = (
        '"$@" & pid=$!; read line; mount -t tmpfs none "$0/sub"; printf "listed one" > "$0/sub/m";'
        ' read line; umount "$0/sub"; kill $pid; wait $pid'
    )
    with subprocess.Popen(
        [*unshare, "sh", "-c", script, str(tree), *command],
        env=environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        watch = Watching(process)
        assert process.stdin is not None
        watch.wait_for("looked at everything")
        process.stdin.write("mount\n")
        process.stdin.flush()
        assert watch.paths(1) == {str(tree / "sub/m")}
        process.stdin.write("end\n")
        process.stdin.close()
        assert process.wait(TIMEOUT_S) == 0
