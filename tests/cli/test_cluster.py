"""`scan --executor`: other machines check the files, with the same answer as one machine."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from fixtures.client import Client
from fixtures.simulator import Simulator
from hashclient.scan.cluster.probes import PREFIX
from hashclient.system import filesystems, identity
from tests.kit import (
    Run,
    State,
    call,
    csv_of,
    environment,
    make_state,
    remember_at_once,
    run,
    wait_until,
    write_tree,
)
from tests.kit.cluster import LISTED, SharedCluster


def archive(files: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as made:
        for name, content in files.items():
            made.writestr(name, content)
    return out.getvalue()


def make_tree(directory: Path) -> Path:
    tree = write_tree(
        directory / "tree",
        {
            "a/listed": LISTED["e-1"],
            "a/b/other": b"content 99",
            "a/b/\udcff": b"no name in UTF-8",
            "a/inner.zip": archive({"x/listed": LISTED["e-2"], "y": b"something"}),
            "c/excluded.iso": LISTED["e-3"],
            "empty": b"",
            **{f"many/{n}/{k}": f"file {n} {k}".encode() for n in range(8) for k in range(30)},
        },
    )
    (tree / "link").symlink_to("a")
    os.mkfifo(tree / "pipe")
    return tree


def scan(state: Path, *args: object, **kwargs: object) -> Run:
    return run("--state-dir", state, "scan", "--format", "jsonl", *args, **kwargs)  # type: ignore[arg-type]


#: Fields that differ between runs: which matches are read twice depends on the earlier files.
VARYING = {"id", "first_seen", "last_seen", "elapsed_s", "started", "bytes_read"}


def told(result: Run) -> list[str]:
    """Return each line of the output without the fields of `VARYING`, in order."""
    lines = [
        {name: value for name, value in line.items() if name not in VARYING}
        for line in result.lines
    ]
    return sorted(map(repr, lines))


def outcomes(result: Run) -> list[str]:
    """Return the lines of `told`, except for the summary."""
    return [line for line in told(result) if "'type': 'summary'" not in line]


@pytest.mark.slow
def test_a_cluster_finds_what_one_machine_finds(cluster: SharedCluster, tmp_path: Path) -> None:
    tree = make_tree(tmp_path)
    args = ("--show-all", "--exclude", "*.iso", tree, tree / "a" / "listed", tmp_path / "nowhere")
    here = scan(cluster.client_state(tmp_path), *args)
    there = scan(cluster.client_state(tmp_path), "--executor", cluster.url, *args)
    assert told(there) == told(here)
    assert there.code == here.code == 11
    assert there.summary["match"] == 3
    assert not list(tmp_path.rglob(f"{PREFIX}*"))


@pytest.mark.slow
def test_paths_are_called_as_the_user_calls_them(cluster: SharedCluster, tmp_path: Path) -> None:
    tree, args = make_tree(tmp_path), ("--show-all", "a", ".", "empty")
    here = scan(cluster.client_state(tmp_path), *args, cwd=tree)
    there = scan(cluster.client_state(tmp_path), "--executor", cluster.url, *args, cwd=tree)
    assert told(there) == told(here)
    assert {"a/listed", "./a/listed", "empty", "./empty"} <= {
        line["path"] for line in there.lines[:-1]
    }


@pytest.mark.slow
def test_matches_are_recorded_and_logged_by_the_client_alone(
    cluster: SharedCluster, tmp_path: Path
) -> None:
    tree, state = make_tree(tmp_path), cluster.client_state(tmp_path)
    before = sorted(path.name for path in cluster.state.iterdir())
    assert scan(state, "--executor", cluster.url, tree).code == 10
    found = run("--state-dir", state, "matches", "--format", "jsonl")
    assert len(found.out.splitlines()) == 3
    assert run("--state-dir", state, "audit", "verify").code == 0
    assert sorted(path.name for path in cluster.state.iterdir()) == before
    # A removed file is reported as gone, from the listings of the workers.
    (tree / "a" / "listed").unlink()
    assert scan(state, "--executor", cluster.url, tree).summary["gone"] == 1


@pytest.mark.slow
def test_a_local_cluster_shares_the_state(cluster: SharedCluster, tmp_path: Path) -> None:
    tree, state = make_tree(tmp_path), cluster.client_state(tmp_path)
    here = scan(cluster.client_state(tmp_path), tree)
    there = scan(state, "--executor", "local-cluster:1", tree)
    assert told(there) == told(here)


@pytest.mark.slow
def test_a_cluster_on_this_machine_remembers_files_as_soon_as_processes_do(
    cluster: SharedCluster, tmp_path: Path
) -> None:
    """A file that a lease proves unchanged is remembered when it is a second old."""
    tree = make_tree(tmp_path)
    made_ns = time.time_ns()
    wait_until(lambda: time.time_ns() > made_ns + 1_100_000_000, os.getpid())

    def again(*how: str) -> tuple[int, int]:
        state = cluster.client_state(tmp_path)
        scan(state, *how, tree)
        summary = scan(state, *how, tree).summary
        return summary["known_unchanged"], summary["believed_unchanged"]

    here = again("--jobs", "2")
    if here[0] == 0:
        pytest.skip("nothing is remembered of files here at once")
    assert again("--executor", "local-cluster:1") == here


@pytest.mark.slow
@pytest.mark.parametrize(
    ("published", "same_key", "message"),
    [
        ({"base": [b"x"]}, False, ": it has another seal key: key id "),
        ({"base": [b"x"]}, True, ": list base: it is another list of the same name and generation"),
        ({"base": [b"x", b"y"]}, True, ": list base: generation 1, not 2"),
        pytest.param(
            {"base": [b"x"], "more": [b"y"]},
            True,
            ": list base: it is another",
            marks=pytest.mark.deep,
        ),
        pytest.param(
            {"more": [b"y"]},
            True,
            ": list base: the client does not use it",
            marks=pytest.mark.deep,
        ),
        ({"a-list": [b"y"]}, True, ": list a-list: it is not there, or cannot be used"),
    ],
)
def test_a_worker_that_would_find_something_else_is_an_error_at_the_start(
    cluster: SharedCluster,
    tmp_path: Path,
    published: dict[str, list[bytes]],
    same_key: bool,
    message: str,
) -> None:
    simulator = Simulator(tmp_path / "provider")
    for name, contents in published.items():
        for number, content in enumerate(contents):
            simulator.publish(csv_of({f"e-{number}": content}), name)
    state = tmp_path / "state"
    if same_key:
        state.mkdir(mode=0o700)
        shutil.copy(cluster.state / "seal.key", state / "seal.key")
    Client(state, simulator, simulator.root).fetch()
    result = scan(state, "--executor", cluster.url, tmp_path)
    assert result.code == 8
    assert result.out == ""
    assert "hashclient: error: worker tcp://127.0.0.1:" in result.err
    assert message in result.err
    assert "(and 2 more)\nhint: " in result.err


@pytest.mark.slow
def test_named_files_are_checked_as_on_one_machine(cluster: SharedCluster, tmp_path: Path) -> None:
    tree = make_tree(tmp_path)
    names = b"a/listed\nlink/listed\nempty\npipe\na/b\nnowhere/x\na/b/other\nc/excluded.iso\n"
    args = ("--show-all", "--exclude", "*.iso", "--files-from", "-")
    here = scan(cluster.client_state(tmp_path), *args, cwd=tree, stdin=names)
    state = cluster.client_state(tmp_path)
    there = scan(state, "--executor", cluster.url, *args, "a", cwd=tree, stdin=names)
    below = scan(cluster.client_state(tmp_path), "--show-all", "--exclude", "*.iso", "a", cwd=tree)
    assert outcomes(there) == sorted(outcomes(here) + outcomes(below))
    assert there.code == here.code == 11


@pytest.mark.slow
def test_an_unchanged_file_is_not_read_again(
    cluster: SharedCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fd = os.open(tmp_path, os.O_RDONLY)
    keeps = filesystems.keeps_ctime(filesystems.kind_of(fd)) and identity.unique_mount(fd)
    os.close(fd)
    if not keeps:
        pytest.skip("nothing is remembered of files here")
    remember_at_once(monkeypatch, tmp_path)
    tree, state = make_tree(tmp_path), cluster.client_state(tmp_path)
    State.let_time_pass(SimpleNamespace(directory=tmp_path))  # type: ignore[arg-type]

    def scanned(*args: object) -> dict[str, Any]:
        words = ("--state-dir", state, "scan", "--format", "jsonl", *args, tree, tree / "empty")
        result = call(*words)
        summary = result.summary
        assert (result.code, summary["match"]) == (10, 3)
        kept = ("files_read", "known_unchanged", "believed_unchanged", "members_read")
        return {name: summary[name] for name in (*kept, "inputs")}

    first = scanned()
    assert first["files_read"] > 240
    again, there = scanned(), scanned("--executor", cluster.url)
    assert there == again
    assert there["known_unchanged"] > 240
    # A scan with the cluster reads the one file that has changed.
    (tree / "many" / "3" / "7").write_bytes(b"FILE 3 7")
    assert scanned("--executor", cluster.url)["files_read"] == again["files_read"] + 1
    everything = scanned("--executor", cluster.url, "--no-inventory")
    assert everything["files_read"] == first["files_read"]


@pytest.mark.slow
@pytest.mark.parametrize("option", [("--jobs", "2"), ("--follow-symlinks",), ("--show-digests",)])
def test_options_that_a_cluster_does_not_support_are_refused_at_once(
    cluster: SharedCluster, tmp_path: Path, option: tuple[str, ...]
) -> None:
    state = cluster.client_state(tmp_path)
    result = run("--state-dir", state, "scan", *option, "--executor", cluster.url, tmp_path)
    assert result.code == 2
    (state / "config.toml").write_text(f'[cluster]\nscheduler = "{cluster.url}"\n')
    assert run("--state-dir", state, "scan", *option, tmp_path).code == 2
    back = run("--state-dir", state, "scan", *option, "--executor", "processes", tmp_path)
    assert back.code == 0, back.err


@pytest.mark.slow
def test_nobody_answers(cluster: SharedCluster, tmp_path: Path) -> None:
    result = scan(cluster.client_state(tmp_path), "--executor", "dask://127.0.0.1:9", tmp_path)
    assert result.code == 4
    assert "the scheduler cannot be reached: tcp://127.0.0.1:9" in result.err


@pytest.mark.slow
def test_without_dask_it_says_what_to_install(cluster: SharedCluster, tmp_path: Path) -> None:
    write_tree(tmp_path / "stub", {"distributed/__init__.py": b"raise ImportError\n"})
    path = f"{tmp_path / 'stub'}:{environment()['PYTHONPATH']}"
    state = cluster.client_state(tmp_path)
    result = scan(state, "--executor", cluster.url, tmp_path, env={"PYTHONPATH": path})
    assert result.code == 2
    assert "pip install '.[cluster]'" in result.err


@pytest.mark.slow
def test_a_scan_without_a_cluster_never_imports_dask(tmp_path: Path) -> None:
    state = make_state(tmp_path, {"base": csv_of(LISTED)})
    code = (
        "import sys; from hashclient.cli.main import _run;"
        f" _run(['--state-dir', {str(state)!r}, 'scan', {str(state)!r}]);"
        " assert not {'dask', 'distributed', 'hashclient.scan.cluster.worker'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, env=environment())
