"""An expected list is missing: no scan, lookup or status ends in 0 without it."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from fixtures.client import Client
from fixtures.simulator import Simulator, status
from hashclient.audit.log import read
from hashclient.core.errors import UnreachableError
from tests.kit import Run, call, csv_of, digests_of, edit_manifest, run, write_tree

CONFIG = '[providers.main]\nurl = "https://lists.example.org"\nroot_sha256 = "00"\n'
SECOND = '[providers.second]\nurl = "https://other.example.org"\nroot_sha256 = "00"\n'
SECOND_GIVES_BASE = SECOND + 'lists = ["base"]\n'
IN_BASE, IN_OTHER = b"listed in base", b"listed in other"
CLEAN = digests_of(b"listed nowhere")[2]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a state with two lists of one provider; the configuration names neither."""
    directory = tmp_path_factory.mktemp("site")
    simulator = Simulator(directory / "provider")
    simulator.publish(csv_of({"b-1": IN_BASE}), "base")
    simulator.publish(csv_of({"o-1": IN_OTHER}), "other")
    Client(directory / "state", simulator, simulator.root).fetch()
    (directory / "state" / "config.toml").write_text(CONFIG)
    return directory / "state"


@pytest.fixture
def state(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "state", symlinks=True))


def ask(state: Path, tmp_path: Path, *, unprivileged: bool = False) -> dict[str, Run]:
    """Run all commands: on clean files, on files of the first list, and for the status."""
    ways = {
        "scan clean": ("scan", write_tree(tmp_path / "clean", {"f": b"listed nowhere"})),
        "scan listed": ("scan", write_tree(tmp_path / "listed", {"f": IN_BASE})),
        "lookup clean": ("lookup", CLEAN),
        "lookup listed": ("lookup", digests_of(IN_BASE)[0]),
        "status": ("status",),
    }
    if not unprivileged:
        return {way: call("--state-dir", state, *args) for way, args in ways.items()}
    return {
        way: run("--state-dir", state, *ways[way], unprivileged=True)
        for way in ("scan clean", "lookup listed", "status")
    }


CODES = {"scan clean": 8, "scan listed": 11, "lookup clean": 8, "lookup listed": 11, "status": 8}


def assert_missing(asked: dict[str, Run], name: str, said: str) -> None:
    """Check that no command ends with 0 without the list, and that other lists still match."""
    assert {way: result.code for way, result in asked.items()} == {way: CODES[way] for way in asked}
    for way, result in asked.items():
        told = result.out if way == "status" else result.err
        assert re.search(said, told), (way, told)
        assert name in told
        if way != "status":
            assert "hint: " in result.err
    assert "match  " in asked["lookup listed"].out


def test_with_both_lists_all_is_well(state: Path, tmp_path: Path) -> None:
    asked = ask(state, tmp_path)
    assert [result.code for result in asked.values()] == [0, 10, 0, 10, 0]
    assert "warning" not in asked["scan clean"].err


def remove_folder(folder: Path) -> None:
    shutil.rmtree(folder)


def remove_manifest(folder: Path) -> None:
    (folder / "manifest.json").unlink()


def damage_manifest(folder: Path) -> None:
    (folder / "manifest.json").write_bytes(b"{")


def cut_run(folder: Path) -> None:
    (path,) = folder.glob("run-*")
    os.truncate(path, path.stat().st_size - 1)


def remove_run(folder: Path) -> None:
    (path,) = folder.glob("run-*")
    path.unlink()


def put_a_pipe_for_a_run(folder: Path) -> None:
    remove_run(folder)
    os.mkfifo(folder / "run-00000001")


def put_a_device_for_a_run(folder: Path) -> None:
    remove_run(folder)
    (folder / "run-00000001").symlink_to("/dev/zero")


def seal_with_another_key(folder: Path) -> None:
    edit_manifest(folder.parent.parent, folder.name, key_id="0" * 16)


def change_it_without_the_key(folder: Path) -> None:
    path = folder / "manifest.json"
    path.write_bytes(path.read_bytes().replace(b'"generation": 1', b'"generation": 9'))


def find_rot_in_it(folder: Path) -> None:
    (path,) = folder.glob("run-*")
    edit_manifest(folder.parent.parent, folder.name, rotten=path.name)


def put_a_file_there(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.write_text("")


def dangling_link(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.symlink_to("nowhere")


def take_the_other_ones_place(folder: Path) -> None:
    shutil.rmtree(folder)
    shutil.copytree(folder.parent / "base", folder)


@pytest.mark.sampled
@pytest.mark.parametrize(
    ("change", "said"),
    [
        (remove_folder, "never (been )?fetched"),
        (remove_manifest, "no manifest"),
        (damage_manifest, "manifest is damaged"),
        (cut_run, "index file has"),
        (remove_run, "are missing"),
        (put_a_pipe_for_a_run, "not a regular file"),
        (put_a_device_for_a_run, "not a regular file"),
        (seal_with_another_key, "sealed with another key"),
        (change_it_without_the_key, "manifest is damaged"),
        (find_rot_in_it, "index file is damaged"),
        (put_a_file_there, "Not a directory"),
        (dangling_link, "no manifest"),
        (take_the_other_ones_place, "holds list base"),
    ],
)
def test_a_list_that_is_not_whole_here(
    state: Path, tmp_path: Path, change: Callable[[Path], None], said: str
) -> None:
    change(state / "lists" / "other")
    assert_missing(ask(state, tmp_path), "other", said)


@pytest.mark.slow
@pytest.mark.parametrize("what", ["other", "other/manifest.json", "run"])
def test_a_list_that_may_not_be_read(state: Path, tmp_path: Path, what: str) -> None:
    (index_file,) = (state / "lists" / "other").glob("run-*")
    path = index_file if what == "run" else state / "lists" / what
    path.chmod(0)
    try:
        asked = ask(state, tmp_path, unprivileged=True)
    finally:
        path.chmod(0o700)
    assert_missing(asked, "other", "Permission denied")


@pytest.mark.slow
def test_the_folder_of_all_lists_may_not_be_read(state: Path, tmp_path: Path) -> None:
    # A process that knows the names of the lists could still open their files.
    (state / "lists").chmod(0o100)
    try:
        asked = ask(state, tmp_path, unprivileged=True)
    finally:
        (state / "lists").chmod(0o700)
    assert {result.code for result in asked.values()} == {8}
    assert all("Permission denied" in result.err for result in asked.values())


@pytest.mark.parametrize("there", [True, False])
def test_no_list_is_here_at_all(state: Path, tmp_path: Path, there: bool) -> None:
    shutil.rmtree(state / "lists")
    if there:
        (state / "lists").mkdir()
    asked = ask(state, tmp_path)
    assert {result.code for result in asked.values()} == {8}
    assert "list base has never been fetched" in asked["scan clean"].err
    assert "list other\n  state       never fetched" in asked["status"].out


@pytest.mark.slow
def test_a_first_fetch_that_failed_is_not_forgotten(tmp_path: Path) -> None:
    """A mirror that serves one list and withholds the other hides nothing."""
    simulator = Simulator(tmp_path / "provider")
    simulator.publish(csv_of({"b-1": IN_BASE}), "base")
    simulator.publish(csv_of({"o-1": IN_OTHER}), "other")
    simulator.faults["targets/lists/other/*"] = status(503)
    client = Client(tmp_path / "state", simulator, simulator.root)
    (tmp_path / "state" / "config.toml").write_text(CONFIG)
    for _ in range(2):
        with pytest.raises(UnreachableError):
            client.fetch()
        assert_missing(ask(tmp_path / "state", tmp_path), "other", "no manifest")
    simulator.faults.clear()
    client.fetch()
    assert [r.code for r in ask(tmp_path / "state", tmp_path).values()] == [0, 10, 0, 10, 0]
    # A list that is new at the provider is missing as soon as the delegation is known.
    simulator.publish(csv_of({"n-1": b"new"}), "new")
    simulator.faults["metadata/*.new.json"] = status(503)
    with pytest.raises(UnreachableError):
        client.fetch()
    assert_missing(ask(tmp_path / "state", tmp_path), "new", "never (been )?fetched")


def test_one_list_alone_was_fetched(tmp_path: Path) -> None:
    simulator = Simulator(tmp_path / "provider")
    for name in ("base", "other"):
        simulator.publish(csv_of({"e-1": IN_BASE}), name)
    Client(tmp_path / "state", simulator, simulator.root).fetch("base")
    (tmp_path / "state" / "config.toml").write_text(CONFIG)
    assert_missing(ask(tmp_path / "state", tmp_path), "other", "never (been )?fetched")


def test_a_list_is_given_up_in_the_configuration(state: Path, tmp_path: Path) -> None:
    (state / "config.toml").write_text(CONFIG + 'lists = ["base"]\n')
    # A list in the state directory counts until its folder is removed.
    remove_manifest(state / "lists" / "other")
    asked = ask(state, tmp_path)
    assert_missing(asked, "other", "no manifest")
    assert "lists = " in asked["scan clean"].err
    shutil.rmtree(state / "lists" / "other")
    assert [result.code for result in ask(state, tmp_path).values()] == [0, 10, 0, 10, 0]


@pytest.mark.slow
@pytest.mark.parametrize("configuration", [None, "", SECOND_GIVES_BASE])
def test_another_configuration_than_it_was_fetched_with(
    state: Path, tmp_path: Path, configuration: str | None
) -> None:
    """A list is expected even if the configuration is missing or does not name its provider."""
    if configuration is None:
        (state / "config.toml").unlink()
    else:
        (state / "config.toml").write_text(configuration)
    whole = {way: result for way, result in ask(state, tmp_path).items() if way != "status"}
    # Without a configuration, intact lists in the state directory are still used.
    ours = configuration != SECOND_GIVES_BASE
    assert [result.code for result in whole.values()] == ([0, 10, 0, 10] if ours else [8, 11] * 2)
    remove_folder(state / "lists" / "other")
    asked = {way: result for way, result in ask(state, tmp_path).items() if way != "status"}
    assert_missing(asked, "other", "list other has never been fetched")
    assert "--config" in asked["scan clean"].err


@pytest.mark.parametrize("configuration", [None, CONFIG])
def test_a_trusted_provider_without_configuration_counts_until_given_up(
    state: Path, tmp_path: Path, configuration: str | None
) -> None:
    if configuration is None:
        (state / "config.toml").unlink()
    path = state / "trust/second/metadata/targets.json"
    shutil.copytree(state / "trust" / "main", state / "trust" / "second")
    path.write_bytes(path.read_bytes().replace(b'"other"', b'"third"'))
    ways = [way for way in CODES if configuration or way != "status"]

    def asked() -> dict[str, Run]:
        return {way: result for way, result in ask(state, tmp_path).items() if way in ways}

    assert_missing(asked(), "third", "never (been )?fetched")
    path.write_bytes(b"{")
    assert_missing(asked(), "provider second", "is damaged")
    # The state is that after `init` and before the first `fetch`.
    shutil.rmtree(path.parent)
    assert [result.code for result in asked().values()] == [0, 10, 0, 10, 0][: len(ways)]


METADATA = "trust/main/metadata"


def gone(path: Path) -> None:
    path.unlink()


def garbled(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-10])


def without_names(path: Path) -> None:
    document = json.loads(path.read_bytes())
    document["signed"]["delegations"]["roles"][0]["name"] = "../other"
    path.write_text(json.dumps(document))


def of_another_role(path: Path) -> None:
    path.write_bytes((path.parent / "snapshot.json").read_bytes())


@pytest.mark.sampled
@pytest.mark.parametrize(
    ("change", "said"),
    [
        (gone, "is not here"),
        (garbled, "is damaged"),
        (without_names, "is damaged"),
        (of_another_role, "is damaged"),
    ],
)
def test_the_expected_lists_are_not_known(
    state: Path, tmp_path: Path, change: Callable[[Path], None], said: str
) -> None:
    change(state / METADATA / "targets.json")
    assert_missing(ask(state, tmp_path), "provider main", said)
    # If the configuration names the lists, it does not matter which other lists are offered.
    (state / "config.toml").write_text(CONFIG + 'lists = ["base", "other"]\n')
    assert [result.code for result in ask(state, tmp_path).values()] == [0, 10, 0, 10, 0]


@pytest.mark.parametrize("name", ["base", "other"])
def test_a_removed_list_is_still_expected_if_its_name_is_removed_from_the_metadata(
    state: Path, tmp_path: Path, name: str
) -> None:
    """No scan verifies the metadata, but an authenticated note in another list names this list."""
    path = state / METADATA / "targets.json"
    document = json.loads(path.read_bytes())
    roles = document["signed"]["delegations"]["roles"]
    document["signed"]["delegations"]["roles"] = [r for r in roles if r["name"] != name]
    path.write_text(json.dumps(document))
    assert "missing" not in call("--state-dir", state, "status").out
    shutil.rmtree(state / "lists" / name)
    asked = ask(state, tmp_path)
    assert all(asked[way].code in {8, 11} for way in asked), {w: r.code for w, r in asked.items()}
    assert f"list {name} has never been fetched" in asked["scan clean"].err
    # If the configuration no longer names the list, scans work without it.
    (other,) = {"base", "other"} - {name}
    (state / "config.toml").write_text(CONFIG + f'lists = ["{other}"]\n')
    assert call("--state-dir", state, "lookup", CLEAN).code == 0


@pytest.mark.slow
def test_metadata_that_may_not_be_read(state: Path, tmp_path: Path) -> None:
    (state / METADATA).chmod(0)
    try:
        asked = ask(state, tmp_path, unprivileged=True)
    finally:
        (state / METADATA).chmod(0o700)
    assert_missing(asked, "provider main", "Permission denied")


def test_a_provider_of_which_nothing_was_ever_fetched(state: Path, tmp_path: Path) -> None:
    (state / "config.toml").write_text(CONFIG + SECOND)
    asked = ask(state, tmp_path)
    assert_missing(asked, "provider second", "no list was ever fetched")
    document = json.loads(call("--state-dir", state, "status", "--format", "json").out)
    assert [(p["name"], p["fetched"]) for p in document["providers"]] == [
        ("main", True),
        ("second", False),
    ]


def test_a_provider_that_offers_nothing(state: Path, tmp_path: Path) -> None:
    (state / "config.toml").write_text(CONFIG + SECOND)
    shutil.copytree(state / "trust" / "main", state / "trust" / "second")
    path = state / "trust/second/metadata/targets.json"
    document = json.loads(path.read_bytes())
    document["signed"]["delegations"]["roles"] = []
    path.write_text(json.dumps(document))
    assert_missing(ask(state, tmp_path), "provider second", "no list is offered")


def test_two_providers_offer_a_list_of_one_name(state: Path, tmp_path: Path) -> None:
    (state / "config.toml").write_text(CONFIG + SECOND + 'lists = ["base"]\n')
    asked = ask(state, tmp_path)
    assert_missing(asked, "base", "from provider main")
    metrics = call("--state-dir", state, "status", "--format", "prometheus").out
    assert metrics.count('hashclient_list_usable{list="base"} ') == 1
    assert 'hashclient_list_usable{list="base"} 0.0\n' in metrics


def test_a_monitor_sees_it(state: Path) -> None:
    shutil.rmtree(state / "lists" / "other")
    document = json.loads(call("--state-dir", state, "status", "--format", "json").out)
    assert document["exit_code"] == 8
    (other,) = [entry for entry in document["lists"] if entry["name"] == "other"]
    assert (other["usable"], other["provider"]) == (False, "main")
    metrics = call("--state-dir", state, "status", "--format", "prometheus").out
    assert 'hashclient_list_usable{list="base"} 1.0\n' in metrics
    assert 'hashclient_list_usable{list="other"} 0.0\n' in metrics
    assert "hashclient_lists_missing 1.0\n" in metrics


def test_the_log_names_what_was_not_asked(state: Path, tmp_path: Path) -> None:
    remove_folder(state / "lists" / "other")
    tree = write_tree(tmp_path / "t", {"f": b"listed nowhere"})
    for command, argument in (("scan", str(tree)), ("lookup", CLEAN)):
        assert call("--state-dir", state, command, argument).code == 8
        (start,) = read(state / "audit", event=f"{command}-start", limit=1)
        assert [entry["list"] for entry in start.data["lists"]] == ["base"]
        assert start.data["missing"] == [
            {"list": "other", "provider": "main", "problem": "never fetched"}
        ]


def test_files_and_folders_that_are_no_list_are_ignored(state: Path, tmp_path: Path) -> None:
    """A file system or a file manager creates entries that are not lists."""
    for name in ("lost+found", ".snapshot"):
        (state / "lists" / name).mkdir()
    (state / "lists" / "notes").write_text("")
    assert [result.code for result in ask(state, tmp_path).values()] == [0, 10, 0, 10, 0]
