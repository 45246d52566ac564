"""Kinds that are not opened are counted by a scan of files, a stream and the daemon alike."""

from __future__ import annotations

import os
import urllib.request
from collections import Counter
from pathlib import Path

import pytest

from fixtures import archives, unopened
from hashclient.containers import cage, meaning
from hashclient.scan.check import marks
from tests.clamd import instream, open_for_reading, serving
from tests.kit import State, remember_at_once, write_tree

FILES = {name: data for name, _, data in unopened.each()}
KINDS = Counter(kind for _, kind, _ in unopened.each())
LISTED = b"a listed file of some length"
INSIDE = archives.zip_of({"disk.img": unopened.disk(), "x": b"benign"})
DMG = next(data for _, kind, data in unopened.each() if kind == "dmg")
NESTED = archives.gzip_of(archives.tar_of({"a.zip": INSIDE, "m.dbx": unopened.store()}))


def state_of(directory: Path, *, sized: bool = True) -> State:
    state = State(directory, {"base": {"e-1": LISTED}}, sized=sized)
    write_tree(state.tree, {**FILES, "a.zip": INSIDE, "n.tgz": NESTED, "plain": b"benign"})
    return state


ALL = KINDS + Counter({"disk": 2, "dbx": 1})


@pytest.mark.sampled
@pytest.mark.parametrize("sized", [True, False], ids=["with sizes", "without sizes"])
def test_a_scan_counts_each_kind_also_in_archives_and_in_unchanged_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, sized: bool
) -> None:
    remember_at_once(monkeypatch, tmp_path)
    state = state_of(tmp_path, sized=sized)
    state.let_time_pass()
    first = state.scan("--jobs", "1")
    assert (first.code, first.summary["not_opened"]) == (0, dict(ALL))
    state.let_time_pass()
    second = state.scan("--jobs", "1")
    assert (second.code, second.summary["not_opened"]) == (0, dict(ALL))
    assert second.summary["files_read"] == 0
    assert second.summary["members"] == first.summary["members"]
    parallel = state.scan("--jobs", "2", "--no-inventory")
    assert parallel.summary["not_opened"] == dict(ALL)
    ends = [data for event, data in state.events("scan-end") if data["opens_containers"]]
    assert [data["not_opened"] for data in ends] == [dict(ALL)] * 3


def test_no_process_is_started_for_files_that_are_only_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = State(tmp_path, {"base": {"e-1": LISTED}}, {"m.dbx": unopened.store()})
    monkeypatch.setattr(cage, "Cage", None)
    run = state.scan("--jobs", "1")
    assert (run.code, run.summary["not_opened"]) == (0, {"dbx": 1})


@pytest.mark.slow
def test_a_configuration_makes_each_unread_by_name_and_the_inventory_hides_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    remember_at_once(monkeypatch, tmp_path)
    state = state_of(tmp_path)
    state.let_time_pass()
    assert state.scan("--jobs", "1").code == 0
    state.let_time_pass()
    state.configure('[scan.containers]\nnot_opened = "unread"\n')
    for _ in range(2):
        result = state.scan("--jobs", "1")
        unread = [line for line in result.lines[:-1] if line["type"] == "unread"]
        assert (result.code, len(unread)) == (3, sum(ALL.values()))
        assert result.summary["not_opened"] == dict(ALL)
        assert {line["reason"] for line in unread} == {f"not-opened: {kind}" for kind in ALL}
        named = {tuple(line["members"]) for line in unread if line["container"].endswith(".tgz")}
        assert named == {("n.tar", "a.zip", "disk.img", ""), ("n.tar", "m.dbx", "")}


@pytest.mark.slow
def test_files_that_an_earlier_version_knew_as_no_container_are_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    remember_at_once(monkeypatch, tmp_path)
    state = State(tmp_path, {"base": {"e-1": LISTED}})
    write_tree(state.tree, FILES)
    state.let_time_pass()
    with monkeypatch.context() as earlier:
        for name in ("look_at", "ends_as_container", "has_behind"):
            earlier.setattr(marks, name, lambda *_, **__: ())
        earlier.setattr(meaning, "NUMBERS", {})
        assert state.scan("--jobs", "1").summary["not_opened"] == {}
        assert state.scan("--jobs", "1").summary["known_unchanged"] == len(FILES)
    assert state.scan("--jobs", "1").summary["not_opened"] == dict(KINDS)


@pytest.mark.sampled
@pytest.mark.parametrize(
    ("name", "kinds"),
    [
        ("long.img", {"disk": 1}),
        ("long.dmg", {"dmg": 1}),
        ("a.dbx", {"dbx": 1}),
        ("n.tgz", {"disk": 1, "dbx": 1}),
    ],
)
def test_a_stream_has_the_same_counts(tmp_path: Path, name: str, kinds: dict[str, int]) -> None:
    long = {"img": unopened.disk() + bytes(3 << 20), "dmg": bytes(range(256)) * 9000 + DMG[-512:]}
    contents = {"a.dbx": unopened.store(), "n.tgz": NESTED}
    data = contents.get(name) or long[name[-3:]]
    state = State(tmp_path, {"base": {"e-1": LISTED}})
    result = state.run("scan", "-", "--format", "jsonl", stdin=data)
    assert (result.code, result.summary["not_opened"]) == (0, kinds)


@pytest.mark.slow
def test_the_daemon_counts_the_same_at_each_door(tmp_path: Path) -> None:
    state = state_of(tmp_path)
    write_tree(state.tree, {"long.img": unopened.disk() + bytes(3 << 20)})
    contents = {path.name: path.read_bytes() for path in state.tree.iterdir()}
    want = ALL + Counter({"disk": 1})
    options = ("--metrics", "127.0.0.1:0", "--paths", "any")
    with serving(state.path, tmp_path / "run", *options) as daemon:
        for name, data in contents.items():
            assert daemon.ask(instream(data)) == b"stream: OK\0", name
            fd = open_for_reading(state.tree / name)
            assert daemon.ask_descriptor(fd).endswith(b" OK\0"), name
            os.close(fd)
        assert daemon.ask(b"zCONTSCAN %b\0" % os.fsencode(state.tree)).endswith(b" OK\0")
        with urllib.request.urlopen(daemon.metrics) as answer:
            text = answer.read().decode()
    for kind, number in want.items():
        assert f'hashclient_serve_not_opened_total{{kind="{kind}"}} {3 * number}.0' in text
    logged: Counter[str] = Counter()
    for _, ended in state.events("serve-end"):
        logged += Counter(ended.get("not_opened", {}))
    assert logged == Counter({kind: 3 * number for kind, number in want.items()})


@pytest.mark.slow
def test_status_shows_the_kinds_of_the_last_scan_as_metrics(tmp_path: Path) -> None:
    state = state_of(tmp_path)
    state.scan()
    state.configure('[providers.main]\nurl = "https://lists.example.org"\nroot_sha256 = "00"\n')
    text = state.call("status", "--format", "prometheus").out
    assert f'hashclient_last_scan_not_opened{{kind="disk"}} {ALL["disk"]}.0' in text
    assert f'hashclient_last_scan_not_opened{{kind="dbx"}} {ALL["dbx"]}.0' in text


@pytest.mark.slow
def test_an_image_that_only_its_end_shows_is_counted_where_a_member_is_read_to_its_end(
    tmp_path: Path,
) -> None:
    state = State(tmp_path, {"base": {"e-1": LISTED}})
    write_tree(state.tree, {"a.tar": archives.tar_of({"x.dmg": DMG, "y": LISTED})})
    result = state.scan()
    assert (result.code, result.summary["not_opened"]) == (10, {"dmg": 1})
