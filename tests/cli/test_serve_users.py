"""A daemon of root that other users may ask does nothing that these users cannot do."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import stat
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from msgspec.structs import replace

from fixtures.archives import zip_of
from hashclient.config.settings import Config, Settings
from hashclient.core.errors import HashclientError
from hashclient.daemon.checks import Checks
from hashclient.daemon.counts import Counts
from hashclient.daemon.openers import opening
from hashclient.daemon.options import UnixAddress
from hashclient.daemon.paths import check_path
from hashclient.daemon.protocol import Command
from hashclient.daemon.sockets import listen
from hashclient.daemon.users import Peer
from hashclient.daemon.worker import SILENT_S
from hashclient.matches.verify import verify_matches
from hashclient.scan.check.members import Members
from hashclient.session import Session
from hashclient.system.rights import Rights
from tests.clamd import OPTIONS, Daemon, instream, serving
from tests.kit import arguments, csv_of, environment, make_state, run, wait_until, write_tree
from tests.kit.attacker import (
    ATTACKER,
    Victim,
    attacking,
    exchange,
    give_tree,
    link,
    needs_root,
    open_ground,
    remove,
)

pytestmark = needs_root

LISTED = b"listed one"
FOUND = b"stream: Hashclient.base.e-1 FOUND\0"
NAME = b": Hashclient.base.e-1 FOUND\n"
NO_VERDICT = b": Heuristics.Limits.Exceeded.Hashclient."


@pytest.fixture
def ground() -> Iterator[Path]:
    with open_ground() as made:
        yield made


@contextlib.contextmanager
def open_to_all(ground: Path, *options: object) -> Iterator[Daemon]:
    """Yield a daemon that every user may ask."""
    state = make_state(ground, {"base": csv_of({"e-1": LISTED})})
    state.chmod(0o700)
    with serving(state, ground / "run", "--socket-mode", "666", "--jobs", 1, *options) as daemon:
        yield daemon


@pytest.fixture
def daemon(ground: Path) -> Iterator[Daemon]:
    with open_to_all(ground) as made:
        yield made


def scan(daemon: Daemon, path: Path, **how: Any) -> bytes:
    """Ask about a path, and return the answer without the path."""
    named = os.fsencode(path)
    said = daemon.ask(b"nCONTSCAN %s\n" % named, **{"uid": ATTACKER, **how})
    assert said.startswith(named)
    return said.removeprefix(named)


def records(ground: Path) -> list[Any]:
    result = run("--state-dir", ground / "state", "matches", "--format", "jsonl")
    return [line for line in result.lines if line["type"] == "match"]


@pytest.mark.sampled
@pytest.mark.parametrize("rule", ["found", "error"])
def test_a_file_that_a_client_may_not_read_has_one_answer_whatever_it_is(
    ground: Path, rule: str
) -> None:
    victim = Victim(ground / "closed" / "listed", LISTED)
    tree = give_tree(ground / "tree", {"own": b"benign"})
    with open_to_all(ground, "--no-verdict", rule) as daemon:
        names = (victim.path, victim.path.with_name("none"), victim.path.parent / "a/b")
        answers = {scan(daemon, path) for path in names}
        for number, path in enumerate(names):
            link = tree / f"link{number}"
            link.symlink_to(path)
            answers.add(scan(daemon, link))
        assert len(answers) == 1
        assert NAME not in answers
        assert scan(daemon, tree / "own") == b": OK\n"
        assert scan(daemon, victim.path, uid=0) == NAME
    assert len(records(ground)) == 1


@pytest.mark.slow
def test_a_client_may_ask_about_files_that_it_may_read(daemon: Daemon, ground: Path) -> None:
    tree = give_tree(ground / "tree", {"own": LISTED, "sub/benign": b"benign"})
    (tree / "sub" / "benign").chmod(0o600)
    assert scan(daemon, tree / "own") == NAME
    assert scan(daemon, tree / "sub") == b": OK\n"
    assert scan(daemon, tree) == b"/own" + NAME
    # A listed file that the client may not read makes the answer one without a verdict.
    (tree / "sub" / "roots").write_bytes(LISTED)
    (tree / "sub" / "roots").chmod(0o600)
    assert scan(daemon, tree / "sub").startswith(b"/roots" + NO_VERDICT + b"Unread")


def test_an_archive_of_a_client_is_opened_with_the_rights_of_the_daemon(
    ground: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only the archive is opened with the credentials of the client, not the opening program."""
    rights: list[bool] = []
    tree = give_tree(
        ground / "tree", {"a.zip": zip_of({"x": LISTED}), "b.zip": zip_of({"x": b"y"})}
    )
    (tree / "a.zip").chmod(0o600)
    state = make_state(ground, {"base": csv_of({"e-1": LISTED})})
    session = Session(Settings(state, state / "config.toml", None, Config()), environ={})
    opened = Members.open

    def watched(members: Members, *args: Any, **options: Any) -> Any:
        status = Path("/proc/thread-self/status").read_text()
        rights.append("\nUid:\t0\t0\t0\t0\n" in status)
        return opened(members, *args, **options)

    monkeypatch.setattr(Members, "open", watched)
    options = replace(OPTIONS, containers=opening(Config(), 60, print))
    checks = Checks(session, options, Counts(1).row(0), [], 1, 1)
    said: list[str] = []
    client = SimpleNamespace(
        peer=Peer("serve:s,uid=1", "uid=1", True, Rights(ATTACKER, ATTACKER, ())),
        is_closed=False,
        answer=lambda _, lines, **__: said.extend(lines),
    )
    job = check_path(checks, cast(Any, client), Command.CONTSCAN, str(tree), (b"", b"\n"))
    for step in job:
        if step is None or not step():
            break
    job.close()
    checks.end()
    assert said == [f"{tree}/a.zip: Hashclient.base.e-1 FOUND"]
    assert rights == [True] * 2


@pytest.mark.slow
def test_the_record_of_a_file_has_its_path_without_links_and_who_asked(
    daemon: Daemon, ground: Path
) -> None:
    tree = give_tree(ground / "tree", {"sub/own": LISTED, "sub/b": LISTED})
    (tree / "link").symlink_to(tree / "sub" / "own")
    (tree / "way").symlink_to("sub")
    assert scan(daemon, tree / "link") == NAME
    assert scan(daemon, tree / "way" / "b", uid=0) == NAME
    found = records(ground)
    assert {m["path"] for m in found} == {str(tree / "sub/own"), str(tree / "sub/b")}
    door = f"serve:unix:{daemon.unix},uid={ATTACKER}"
    own = next(m["id"] for m in found if m["path"].endswith("own"))
    assert f"door: {door}" in run("--state-dir", ground / "state", "matches", "show", own).out
    log = (ground / "state" / "audit" / "log.jsonl").read_text()
    assert log.count(f'"door":"{door}"') == 1
    assert log.count(f'"door":"serve:unix:{daemon.unix},uid=0"') == 1


@pytest.mark.slow
def test_a_client_with_credentials_of_a_group_may_ask_as_the_group(ground: Path) -> None:
    tree = ground / "tree"
    tree.mkdir()
    (tree / "file").write_bytes(LISTED)
    os.chown(tree / "file", 0, ATTACKER)
    (tree / "file").chmod(0o640)
    with open_to_all(ground) as daemon:
        assert scan(daemon, tree / "file") == NAME
        (tree / "file").chmod(0o600)
        assert scan(daemon, tree / "file").startswith(NO_VERDICT)


@pytest.mark.slow
def test_a_client_at_a_port_may_ask_about_paths_only_if_the_operator_says_so(
    ground: Path,
) -> None:
    tree = give_tree(ground / "tree", {"own": LISTED})
    with open_to_all(ground) as daemon:
        refused = {scan(daemon, path, tcp=True) for path in (tree / "own", tree / "none")}
        assert refused == {NO_VERDICT + b"Path FOUND\n"}
    with serving(
        ground / "state", ground / "run", "--paths", "any", "--socket-mode", "666"
    ) as daemon:
        victim = Victim(ground / "closed" / "listed", LISTED)
        assert scan(daemon, victim.path, tcp=True) == NAME
        assert scan(daemon, victim.path) == NAME


@pytest.mark.slow
def test_only_root_and_its_own_user_control_the_daemon(daemon: Daemon) -> None:
    for command in (b"zSHUTDOWN\0", b"zRELOAD\0"):
        assert daemon.ask(command, uid=ATTACKER) == b"COMMAND UNAVAILABLE\0"
    assert daemon.ask(instream(LISTED), uid=ATTACKER) == FOUND
    assert daemon.ask(b"zRELOAD\0") == b"RELOADING\0"


def send_often(daemon: Daemon, count: int, data: bytes, **how: Any) -> None:
    """Send a listed stream again and again in one session."""
    with daemon.connect(uid=ATTACKER) as sock:
        sock.sendall(b"zIDSESSION\0")
        for start in range(0, count, 50):
            now = min(50, count - start)
            sock.sendall(data * now)
            said = b""
            while said.count(b"\0") < now and (more := sock.recv(1 << 16)):
                said += more
            assert said.count(b"Hashclient.base.e-1 FOUND\0") == now


@pytest.mark.parametrize("count", [300, pytest.param(10_000, marks=pytest.mark.slow)])
def test_the_same_listed_stream_over_and_over_is_one_record_with_a_count(
    ground: Path, count: int
) -> None:
    with open_to_all(ground) as daemon:
        send_often(daemon, count, instream(LISTED))
        assert daemon.stop() == 0
    (match,) = records(ground)
    shown = run("--state-dir", ground / "state", "matches", "show", match["id"]).out
    assert f"seen        {count:,} times" in shown
    log = (ground / "state" / "audit" / "log.jsonl").read_text()
    assert log.count('"event":"match"') <= 6
    assert run("--state-dir", ground / "state", "audit", "verify").code == 0
    verify_matches(ground / "state")


def isolating(ground: Path, entries: dict[str, bytes]) -> Path:
    """Return a state whose policy isolates every match."""
    state = make_state(ground, {"base": csv_of(entries)})
    made = run("quarantine", "keygen", "--output", ground / "key", "--format", "json")
    recipients = json.dumps([json.loads(made.out)["public_key"]])
    (state / "config.toml").write_text(
        '[[policy]]\nlist = "base"\nactions = ["quarantine"]\n'
        f"[quarantine]\nrecipients = {recipients}\n"
    )
    return state


def items_in(state: Path) -> int:
    items = run("--state-dir", state, "quarantine", "list", "--format", "json")
    return len(json.loads(items.out)["items"])


@pytest.mark.slow
def test_a_file_that_its_owner_makes_again_and_again_is_one_item(ground: Path) -> None:
    """Each request finds the file, but the same content is isolated only once an hour."""
    state = isolating(ground, {"e-1": LISTED})
    tree = give_tree(ground / "tree", {})
    with serving(state, ground / "run", "--socket-mode", "666", "--jobs", 1) as daemon:
        for number in range(30):
            give_tree(tree / str(number % 3), {"own": LISTED})
            assert scan(daemon, tree / str(number % 3) / "own") == NAME
        assert daemon.stop() == 0
    (match,) = records(ground)
    assert items_in(state) == 1
    shown = run("--state-dir", state, "matches", "show", match["id"]).out
    assert f"times: 9, door: serve:unix:{daemon.unix},uid={ATTACKER}" in shown
    assert "times: 20, " in shown
    verify_matches(state)


@pytest.mark.slow
@pytest.mark.parametrize("rounds", [5, pytest.param(200, marks=pytest.mark.slow)])
def test_a_policy_isolates_no_file_that_the_client_has_put_in_the_place_of_another(
    ground: Path, rounds: int
) -> None:
    entries = {f"e-{number}": b"listed %d" % number for number in range(rounds + 1)}
    state = isolating(ground, entries)
    victim = Victim(ground / "closed" / "f", entries["e-0"])
    tree = give_tree(ground / "tree", {"d/f": b"benign"})
    (tree / "link").symlink_to(victim.path.parent)
    with serving(state, ground / "run", "--socket-mode", "666", "--jobs", 1) as daemon:
        for number in range(rounds):
            for place in (tree / "d", tree / "link"):
                if not place.is_symlink():
                    give_tree(place, {"f": entries[f"e-{number}"]})
            with attacking(exchange(tree / "d", tree / "link")):
                for _ in range(3):
                    scan(daemon, tree / "d" / "f")
        # Without an attack, the policy isolates the file.
        (place,) = (one for one in (tree / "d", tree / "link") if not one.is_symlink())
        give_tree(place, {"f": entries[f"e-{rounds}"]})
        scan(daemon, place / "f")
    assert victim.is_untouched()
    assert all(match["path"] != str(victim.path) for match in records(ground))
    assert items_in(state) > 0


def trickle(socks: list[socket.socket], over: threading.Event) -> None:
    """Send a byte of a command through each connection, repeatedly; skip closed connections."""
    while not over.wait(0.3):
        for sock in [*socks]:
            try:
                sock.send(b"A")
            except OSError:
                socks.remove(sock)


def is_served(daemon: Daemon, uid: int) -> bool:
    """Return whether a user gets an answer."""
    try:
        return daemon.ask(instream(LISTED), uid=uid) == FOUND
    except ConnectionError:
        return False


@contextlib.contextmanager
def trickling(daemon: Daemon, *uids: int, count: int) -> Iterator[list[socket.socket]]:
    """Let users keep `count` connections each, and send a byte through each now and then."""
    over = threading.Event()
    with contextlib.ExitStack() as stack:
        socks = [stack.enter_context(daemon.connect(uid=uid)) for uid in uids for _ in range(count)]
        for sock in socks:
            with contextlib.suppress(OSError):
                sock.sendall(b"zSCAN /")
        thread = threading.Thread(target=trickle, args=(socks, over))
        thread.start()
        try:
            yield socks
        finally:
            over.set()
            thread.join()


@pytest.mark.slow
def test_a_user_who_holds_connections_by_a_byte_now_and_then_keeps_nobody_out(
    ground: Path,
) -> None:
    """One user cannot take all connections. If several users take them all, one is closed."""
    with (
        open_to_all(ground, "--max-connections", 20, "--command-time", "1h") as daemon,
        trickling(daemon, ATTACKER, count=40),
    ):
        assert is_served(daemon, ATTACKER - 1)
        assert is_served(daemon, 0)
        with trickling(daemon, ATTACKER - 2, count=20):
            assert is_served(daemon, ATTACKER - 3)


@pytest.mark.slow
def test_a_slow_client_is_closed_when_others_wait_and_in_any_case_in_the_end(
    ground: Path,
) -> None:
    options = ("--max-connections", 5, "--user-share", 100)
    began = time.monotonic()
    with (
        open_to_all(ground, *options) as daemon,
        trickling(daemon, 0, count=5) as socks,
    ):
        # On a busy machine, one of the connections may be silent for long enough to be closed.
        assert not is_served(daemon, ATTACKER) or time.monotonic() - began > SILENT_S
        wait_until(lambda: is_served(daemon, ATTACKER), daemon.process.pid)
        assert socks
    again = ("--command-time", "1s", "--socket-mode", "666")
    with (
        serving(ground / "state", ground / "run", *options, *again) as daemon,
        trickling(daemon, 0, count=2) as socks,
    ):
        wait_until(lambda: not socks, daemon.process.pid)


@pytest.mark.slow
def test_a_user_who_fills_the_spool_leaves_a_part_for_others(ground: Path) -> None:
    archive = zip_of({"x": LISTED, "y": os.urandom(4 << 20)})
    with (
        open_to_all(ground, "--spool-mib", 8, "--user-share", 50) as daemon,
        daemon.connect(uid=ATTACKER) as sock,
    ):
        begun = b"PK\3\4" + bytes(30 << 20)
        sock.sendall(b"zINSTREAM\0" + len(begun).to_bytes(4, "big") + begun)
        assert daemon.ask(instream(archive), uid=ATTACKER - 1) == FOUND
        sock.sendall(bytes(4))
        assert sock.recv(200).startswith(b"stream" + NO_VERDICT)


def bind_at(ground: Path, path: Path) -> tuple[int, str]:
    """Start and end a daemon with a socket, and return its exit code and its messages."""
    words = ("--state-dir", ground / "state", "serve", "--jobs", 1, "--socket-mode", "666")
    with subprocess.Popen(
        arguments(*words, "--bind", f"unix:{path}"),
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        if process.stdout.readline():
            process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=60)
    return process.returncode, said


@pytest.mark.slow
def test_no_socket_is_made_where_another_user_may_change_the_way(ground: Path) -> None:
    make_state(ground, {"base": csv_of({"e-1": LISTED})})
    theirs = give_tree(ground / "theirs", {})
    (theirs / "roots").mkdir()
    (ground / "open").mkdir()
    (ground / "open").chmod(0o777)
    sticky = ground / "sticky"
    sticky.mkdir()
    sticky.chmod(0o1777)
    (ground / "way").symlink_to(theirs)
    (sticky / "s.lock").touch()
    os.chown(sticky / "s.lock", ATTACKER, ATTACKER)
    # Any user could create a missing directory in a sticky directory.
    missing = sticky / "missing"
    for place in (theirs, theirs / "roots", ground / "open", ground / "way", sticky, missing):
        code, said = bind_at(ground, place / "s")
        assert code == 2, place
        assert f"cannot listen at unix:{place}/s: " in said
        assert " may change " in said and "hint: " in said
        assert not missing.exists()
        assert place == missing or {p.name for p in place.iterdir()} <= {"roots", "s.lock"}
    (sticky / "s.lock").unlink()
    assert bind_at(ground, sticky / "s") == (0, "")


@pytest.mark.parametrize("rounds", [20, pytest.param(200, marks=pytest.mark.slow)])
def test_a_link_in_the_place_of_a_socket_or_lock_changes_no_other_file(
    ground: Path, rounds: int
) -> None:
    """Everybody may write to the directory, but each user may remove only their own names."""
    victim = Victim(ground / "closed" / "f", LISTED)
    sticky = ground / "sticky"
    sticky.mkdir()
    sticky.chmod(0o1777)
    new = ground / "closed" / "new"
    steps = []
    for name, target in (("s", victim.path), ("s.lock", new)):
        steps += [link(sticky / name, target), remove(sticky / name)]
        # a link of the attacker stays under this name if it could not replace the file
        steps += [remove(sticky / f"{name}.new-link")]
    made = refused = 0
    with attacking(*steps) as attack:
        while made < rounds or not refused:
            refused += 1
            with contextlib.ExitStack() as stack, contextlib.suppress(OSError, HashclientError):
                stack.enter_context(listen(UnixAddress(sticky / "s"), 0o666, stack))
                assert stat.S_IMODE((sticky / "s").lstat().st_mode) == 0o666
                made += 1
                refused -= 1
            (sticky / "s.lock").unlink(missing_ok=True)
            assert victim.is_untouched()
    assert attack.succeeded


def test_a_socket_is_removed_only_if_it_is_the_one_that_was_made(ground: Path) -> None:
    with contextlib.ExitStack() as stack:
        stack.enter_context(listen(UnixAddress(ground / "s"), 0o600, stack))
        assert stat.S_IMODE((ground / "s").lstat().st_mode) == 0o600
        (ground / "s").unlink()
        (ground / "s").write_bytes(b"another file")
    assert (ground / "s").read_bytes() == b"another file"
    with contextlib.ExitStack() as stack:
        (ground / "d").mkdir()
        stack.enter_context(listen(UnixAddress(ground / "d" / "s"), 0o600, stack))
        (ground / "d").rename(ground / "moved")
        write_tree(ground / "d", {"s": b"another file"})
    assert (ground / "d" / "s").exists()
    assert not (ground / "moved" / "s").exists()


@pytest.mark.parametrize("rounds", [20, pytest.param(200, marks=pytest.mark.slow)])
def test_nobody_learns_of_a_file_by_exchanging_what_leads_to_it(
    daemon: Daemon, ground: Path, rounds: int
) -> None:
    victim = Victim(ground / "closed" / "f", LISTED)
    tree = give_tree(ground / "tree", {"d/f": b"benign"})
    (tree / "link").symlink_to(victim.path.parent)
    asked, was_link = 0, set[bool]()
    with attacking(exchange(tree / "d", tree / "link")):
        # On a busy machine, the attacker may exchange rarely.
        while asked < rounds or len(was_link) < 2:
            was_link.add((tree / "d").is_symlink())
            assert not scan(daemon, tree / "d" / "f").endswith(NAME)
            assert NAME not in scan(daemon, tree / "d")
            asked += 1
    assert victim.is_untouched()
    assert records(ground) == []
