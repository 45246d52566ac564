"""`hashclient fetch` over real HTTPS: its messages, its refusals, and the files that it leaves."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from hashclient.core.kinds import Algorithm
from tests.kit import (
    Site,
    arguments,
    csv_of,
    digests_of,
    edit_manifest,
    environment,
    run,
    write_tree,
)

LISTED = {"e-1": b"listed one", "e-2": b"listed two"}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with Site(tmp_path_factory.mktemp("site")) as made:
        made.publish(csv_of(LISTED))
        made.publish(csv_of({"x": b"local"}, algorithms=(Algorithm.MD5,), sized=False), "local")
        assert made.run(*made.init_arguments()).code == 0
        assert made.run("fetch").code == 0
        yield made


@pytest.fixture
def own(site: Site, tmp_path: Path) -> Path:
    """A copy of a state directory whose lists have been fetched."""
    return Path(shutil.copytree(site.state, tmp_path / "state", symlinks=True))


@pytest.fixture
def listed(tmp_path: Path) -> Path:
    return write_tree(tmp_path / "listed", {"f": LISTED["e-1"]})


@pytest.fixture
def unreachable(own: Path) -> Iterator[Path]:
    """A state directory whose provider does not answer."""
    # The socket is bound and does not listen, so that no other process can get the port.
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        config = own / "config.toml"
        port = bound.getsockname()[1]
        config.write_text(re.sub(r"127\.0\.0\.1:\d+", f"127.0.0.1:{port}", config.read_text()))
        yield own


@pytest.mark.slow
def test_a_first_fetch_and_one_with_nothing_new(site: Site, tmp_path: Path) -> None:
    state = tmp_path / "state"
    site.run(*site.init_arguments(), state=state)
    first = site.run("fetch", state=state)
    assert (first.code, first.err) == (0, "")
    one, two = first.out.splitlines()
    assert one.startswith(
        "list baseline: new -> generation 1, 2 added, 0 withdrawn; 2 live entries"
    )
    assert two.startswith("list local: new -> generation 1, 1 added, 0 withdrawn; 1 live entry,")
    site.requests.clear()
    again = site.run("fetch", state=state)
    assert again.code == 0
    assert again.out.startswith("list baseline: nothing new, generation 1; ")
    # The requests are for a newer root, and for the timestamp.
    assert len([line for line in site.requests if " GET " in line]) == 2


@pytest.mark.slow
def test_fetch_for_scripts(site: Site, tmp_path: Path) -> None:
    state = tmp_path / "state"
    site.call(*site.init_arguments(), state=state)
    documents = [
        json.loads(site.call("fetch", "--format", "json", state=state).out)["lists"]
        for _ in range(2)
    ]
    first, again = (lists[0] for lists in documents)
    assert {key: first[key] for key in ("list", "provider", "changed", "before", "generation")} == {
        "list": "baseline",
        "provider": "main",
        "changed": True,
        "before": None,
        "generation": 1,
    }
    assert (first["added"], first["withdrawn"], first["entries"]) == (2, 0, 2)
    assert (again["changed"], again["before"]) == (False, 1)


@pytest.mark.slow
def test_one_list_or_one_provider(site: Site, tmp_path: Path) -> None:
    state = tmp_path / "state"
    site.call(*site.init_arguments(), state=state)
    only = site.call("fetch", "--list", "local", "--provider", "main", state=state)
    assert only.out.count("list ") == 1
    assert not (state / "lists" / "baseline").exists()
    unknown = site.call("fetch", "--provider", "nope", state=state)
    assert unknown.code == 2
    assert "no provider called 'nope'" in unknown.err


@pytest.mark.slow
@pytest.mark.parametrize("name", ["nope", "../x", "\x1b[31m"])
def test_a_list_that_is_not_offered(site: Site, own: Path, name: str) -> None:
    result = site.call("fetch", "--list", name, state=own)
    assert result.code in {2, 6}
    assert "hint: " in result.err
    assert all(line.isprintable() for line in result.err.splitlines())
    assert not (own / "lists" / name).exists()


@pytest.mark.slow
def test_no_provider_yet(tmp_path: Path) -> None:
    result = run("--state-dir", tmp_path / "new", "fetch")
    assert result.code == 2
    assert "no provider is configured" in result.err
    assert "hint: run `hashclient init" in result.err
    assert not (tmp_path / "new").exists()


@pytest.mark.slow
def test_quiet_says_nothing_of_success_but_the_result(site: Site, own: Path) -> None:
    result = run("--quiet", "--state-dir", own, "fetch")
    assert (result.code, result.err) == (0, "")


@pytest.mark.slow
def test_a_provider_that_does_not_answer(unreachable: Path, listed: Path) -> None:
    # A scan uses the lists that are on the disk, and says so.
    scan = run("--state-dir", unreachable, "scan", "--fetch", listed)
    assert scan.code == 11
    assert "warning: " in scan.err
    assert "connection refused" in scan.err
    assert "hint: " in scan.err
    clean = run("--state-dir", unreachable, "scan", "--fetch", unreachable / "config.toml")
    assert clean.code == 4
    # Without `--fetch`, the scan does not contact the provider.
    assert run("--state-dir", unreachable, "scan", unreachable / "config.toml").code == 0


@pytest.mark.slow
def test_a_credential_that_was_revoked(site: Site, own: Path, listed: Path) -> None:
    expected, site.server.expected = site.server.expected, b"Bearer another"
    try:
        result = site.call("fetch", state=own)
        scan = site.call("scan", "--fetch", own / "config.toml", state=own)
    finally:
        site.server.expected = expected
    assert (result.code, scan.code) == (5, 5)
    for text in (result.err, scan.err, scan.out):
        assert site.token not in text
    assert site.call("scan", listed, state=own).code == 10


@pytest.mark.slow
def test_a_list_that_another_key_has_sealed_is_built_again_where_that_is_asked_for(
    tmp_path_factory: pytest.TempPathFactory, tmp_path: Path
) -> None:
    tree = write_tree(tmp_path / "t", {"f": b"listed"})
    with Site(tmp_path_factory.mktemp("site")) as site:
        site.publish(csv_of({"e-1": b"listed"}))
        site.call(*site.init_arguments())
        assert site.call("fetch").code == 0
        for number, words in enumerate((("fetch", "--rebuild"), ("scan", "--fetch", tree))):
            (site.state / "seal.key").write_text(f"{number:02x}" * 32)
            refused = site.call("fetch")
            assert (refused.code, "--rebuild" in refused.err) == (8, True)
            assert site.call("scan", tree).code == 8
            done = site.call(*words)
            assert done.code == (0 if number == 0 else 10)
            assert ("sealed with another key: the list is built again" in done.err) == bool(number)
            assert site.call("scan", tree).code == 10
        (site.state / "seal.key").write_text("garbage")
        broken = site.call("scan", tree)
        assert broken.code == 8
        assert "restore the key that sealed the lists" in broken.err


@pytest.mark.slow
def test_a_scan_that_fetches_first_finds_what_is_new(
    tmp_path_factory: pytest.TempPathFactory, tmp_path: Path
) -> None:
    tree = write_tree(tmp_path / "t", {"f": b"soon listed"})
    with Site(tmp_path_factory.mktemp("site")) as site:
        site.publish(csv_of(LISTED))
        site.call(*site.init_arguments())
        assert site.call("scan", "--fetch", tree).code == 0
        site.publish(csv_of({"e-3": b"soon listed"}))
        assert site.call("scan", tree).code == 0
        found = site.call("scan", "--fetch", tree)
        assert found.code == 10
        assert "list baseline: now at generation 2" in found.err
        withdrawn = site.repository.withdraw("baseline", ["e-3"])
        assert withdrawn.generation == 3
        assert site.call("scan", "--fetch", tree).code in {0, 11}
        assert site.call("scan", tree).code == 0


@pytest.mark.sampled
@pytest.mark.parametrize(
    ("what", "how"),
    [("manifest.json", "empty"), ("manifest.json", "cut"), ("run-*", "cut"), ("run-*", "gone")],
)
def test_a_damaged_index_is_healed_by_a_fetch(
    site: Site, own: Path, listed: Path, what: str, how: str
) -> None:
    (path,) = (own / "lists" / "baseline").glob(what)
    data = path.read_bytes()
    if how == "gone":
        path.unlink()
    else:
        path.write_bytes(b"" if how == "empty" else data[:-20])
    damaged = site.call("scan", listed, state=own)
    assert damaged.code == 8
    assert "hint: run `hashclient fetch`" in damaged.err
    assert site.call("fetch", state=own).code == 0
    assert site.call("scan", listed, state=own).code == 10


@pytest.mark.slow
def test_another_writer_is_not_waited_for(site: Site, own: Path) -> None:
    with (own / "lock").open("wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        result = site.run("fetch", state=own)
        assert result.code == 8
        assert "another hashclient is writing" in result.err
        # Readers do not wait for the lock either.
        assert site.run("status", state=own).code == 0


@pytest.mark.slow
def test_a_fetch_waits_for_another_one_on_request(site: Site, own: Path) -> None:
    with (own / "lock").open("wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        result = site.run("-q", "fetch", "--wait", "0.05", state=own)
        assert result.code == 8 and "fetch --wait" in result.err
        waiting = subprocess.Popen(
            arguments("--state-dir", own, "fetch", "--wait", "--format", "json"),
            env=environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert waiting.stderr is not None
        assert "waiting for it" in waiting.stderr.readline()
    out, err = waiting.communicate(timeout=60)
    assert (waiting.returncode, err) == (0, "")
    assert json.loads(out)["lists"]


@pytest.mark.slow
def test_a_state_directory_that_cannot_be_written(site: Site, own: Path) -> None:
    directories = [own, *(path for path in own.rglob("*") if path.is_dir())]
    for path in directories:
        path.chmod(0o500)
    result = site.run("fetch", state=own, unprivileged=True)
    for path in directories:
        path.chmod(0o700)
    assert result.code in {8, 9}
    assert "Permission denied" in result.err
    assert "hint: " in result.err


@pytest.mark.slow
def test_the_wrong_seal_key_changes_nothing(site: Site, own: Path, listed: Path) -> None:
    for key in ("1" * 64, "not a key"):
        result = site.run("fetch", state=own, env={"HASHCLIENT_SEAL_KEY": key})
        assert result.code in {2, 8}
        assert key not in result.err
    assert site.run("scan", listed, state=own).code == 10
    (own / "seal.key").unlink()
    result = site.run("fetch", state=own)
    assert result.code == 8
    assert "no seal key" in result.err
    assert "hint: restore the key" in result.err


def test_the_pinned_root_is_not_to_be_changed(site: Site, own: Path) -> None:
    path = own / "trust" / "main" / "pinned-root.json"
    path.write_bytes(path.read_bytes() + b"\n")
    result = site.call("fetch", state=own)
    assert result.code == 8
    assert "pinned root is not the root" in result.err
    path.unlink()
    result = site.call("fetch", state=own)
    assert result.code == 8
    assert "cannot read pinned root" in result.err
    assert (
        "hint: remove provider main from the configuration and run `hashclient init`" in result.err
    )


MAIN = "[providers.main]\n"


def away(config: Path) -> None:
    """Configure a second, unreachable provider whose name is first in the alphabet."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        port = bound.getsockname()[1]
    root = config.parent / "trust" / "main" / "pinned-root.json"
    shutil.copytree(root.parent, config.parent / "trust" / "away")
    digest = hashlib.sha256(root.read_bytes()).hexdigest()
    with config.open("a") as stream:
        stream.write(
            f'[providers.away]\nurl = "https://127.0.0.1:{port}"\nroot_sha256 = "{digest}"\n'
            'lists = ["elsewhere"]\nattempts = 1\n'
        )


def edited(config: Path, old: str, new: str) -> None:
    text = config.read_text()
    assert old in text
    config.write_text(text.replace(old, new, 1))


@pytest.mark.slow
def test_4_says_that_nothing_else_has_failed(site: Site, own: Path, listed: Path) -> None:
    """A script may continue after exit code 4, so a worse failure must give another exit code."""
    config = own / "config.toml"
    away(config)
    result = site.call("fetch", state=own)
    assert (result.code, "cannot reach" in result.err or "refused" in result.err) == (4, True)
    # The second provider offers one list fewer than the configuration names.
    edited(config, MAIN, f'{MAIN}lists = ["baseline", "local", "x"]\n')
    nothing = listed.parent / "none"
    for args, word in ((("fetch",), "error"), (("scan", "--fetch", nothing), "warning")):
        result = site.call(*args, state=own)
        assert result.code == 6
        # `fetch` reports the missing list as an error. `scan --fetch` continues and reports a
        # warning.
        assert f"hashclient: {word}: provider main does not offer list x\n" in result.err
        assert result.err.count("127.0.0.1") == 1
    # The second provider refuses every client.
    token = listed.parent / "token"
    token.write_text("wrong")
    token.chmod(0o600)
    edited(config, str(site.endpoint.token_file), str(token))
    for args in (("fetch",), ("scan", "--fetch", listed.parent / "none")):
        result = site.call(*args, state=own)
        assert result.code == 5
        assert result.err.count("127.0.0.1") == 2


@pytest.mark.slow
def test_an_unreadable_list_switches_no_guard_off(site: Site, own: Path) -> None:
    """A list that is not fetched any more still shows that this machine's clock is wrong."""
    folder = own / "lists" / "local"
    edit_manifest(own, "local", checked_at="2999-01-01T00:00:00Z")
    edited(own / "config.toml", MAIN, f'{MAIN}lists = ["baseline"]\n')
    assert site.call("fetch", state=own).code == 7
    folder.chmod(0)
    result = site.run("fetch", state=own, unprivileged=True)
    folder.chmod(0o700)
    assert result.code == 8
    assert "Permission denied" in result.err


@pytest.mark.slow
def test_no_seal_key_is_made_beside_lists_that_may_not_be_read(site: Site, own: Path) -> None:
    shutil.rmtree(own / "lists" / "baseline")
    (own / "seal.key").unlink()
    for path in (own / "lists" / "local", own / "lists"):
        path.chmod(0)
        result = site.run("fetch", state=own, unprivileged=True)
        path.chmod(0o700)
        assert result.code == 8
        assert not (own / "seal.key").exists()


def test_a_folder_that_holds_another_list_is_built_again(
    site: Site, own: Path, listed: Path
) -> None:
    shutil.rmtree(own / "lists" / "baseline")
    shutil.copytree(own / "lists" / "local", own / "lists" / "baseline")
    assert site.call("scan", listed, state=own).code == 8
    assert site.call("fetch", state=own).code == 0
    assert site.call("scan", listed, state=own).code == 10


def contents(directory: Path) -> Iterator[tuple[Path, bytes]]:
    for path in directory.rglob("*"):
        if path.is_file():
            yield path, path.read_bytes()


@pytest.mark.slow
def test_no_listed_digest_rests_anywhere(
    tmp_path_factory: pytest.TempPathFactory, tmp_path: Path
) -> None:
    """No digest is written to the state directory, temporary files or output, in any form."""
    data = {f"e-{n}": f"listed {n}".encode() for n in range(300)}
    digests = [bytes.fromhex(digest) for content in data.values() for digest in digests_of(content)]
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    tree = write_tree(tmp_path / "t", {"f": data["e-7"], "g": b"clean", "h": b"listed x"})
    sums = tmp_path / "sums"
    sums.write_text("".join(f"{d}  file{n}\n" for n, d in enumerate(digests_of(b"clean"))))
    environ = {"TMPDIR": str(temporary)}
    said = ""
    with Site(tmp_path_factory.mktemp("site")) as site:
        site.publish(csv_of(data))
        for args in (
            site.init_arguments(),
            ["-v", "fetch"],
            ["status"],
            ["status", "--format", "json"],
            ["scan", "--show-all", tree],
            ["scan", "--format", "jsonl", "--show-all", tree],
            ["lookup", "--from", sums],
            ["lookup", "--show-all", *digests_of(b"not listed")],
            ["audit", "show", "--format", "jsonl"],
            ["audit", "verify"],
            ["audit", "checkpoint"],
        ):
            result = site.run(*args, env=environ)
            assert result.code in {0, 10}
            said += result.out + result.err
        # Only a lookup of a listed digest shows the digest; no other command shows a digest.
        assert site.run("lookup", digests_of(data["e-9"])[1], env=environ).code == 10
        site.publish(csv_of({"e-x": b"one more"}))
        digests += [bytes.fromhex(digest) for digest in digests_of(b"one more")]
        assert site.run("fetch", env=environ).code == 0
        state = dict(contents(site.state))
    assert len(state) > 8
    everything = b"\n".join([*state.values(), *dict(contents(temporary)).values(), said.encode()])
    lowered = everything.lower()
    assert hashlib.sha256(data["e-7"]).digest() in digests
    for digest in digests:
        assert digest not in everything
        assert digest[:16] not in everything
        assert digest.hex().encode() not in lowered
    # The search finds the path of the tree, so it would also find a secret.
    assert os.fsencode(tree) in everything
