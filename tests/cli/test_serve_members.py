"""Containers that clients send: archives and mail are opened as in a scan."""

from __future__ import annotations

import io
import json
import os
import tarfile
import urllib.request
import zipfile
from collections.abc import Iterator
from email.message import EmailMessage
from pathlib import Path

import pytest

from fixtures.archives import STORED, Zip
from hashclient.scan.check.kept import Spool
from tests.clamd import Daemon, everything, instream, open_for_reading, serving
from tests.kit import csv_of, make_state, run, write_tree

LISTED = b"listed one"
FOUND = b"stream: Hashclient.base.e-1 FOUND\0"
CLEAN = b"stream: OK\0"
UNREAD = b"stream: Heuristics.Limits.Exceeded.Hashclient.Unread FOUND\0"


def zipped(members: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return out.getvalue()


def tarred(members: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return out.getvalue()


def mailed(data: bytes) -> bytes:
    mail = EmailMessage()
    mail["From"], mail["To"], mail["Subject"] = "a@example.org", "b@example.org", "dummy"
    mail.set_content("a dummy mail")
    mail.add_attachment(data, maintype="application", subtype="octet-stream", filename="f.bin")
    return bytes(mail)


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_state(tmp_path_factory.mktemp("site"), {"base": csv_of({"e-1": LISTED})})


@pytest.fixture(scope="module")
def daemon(state: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    with serving(state, tmp_path_factory.mktemp("run")) as daemon:
        yield daemon


HOLDERS = {
    "zip": zipped({"a": b"benign", "in/x": LISTED}),
    "zip in tar.gz": tarred({"deep/a.zip": zipped({"x": LISTED})}),
    "mail": mailed(LISTED),
    "zip in a mail": mailed(zipped({"x": LISTED})),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", HOLDERS)
@pytest.mark.parametrize("step", [7, 1 << 20])
def test_a_listed_member_of_a_stream_is_found(daemon: Daemon, name: str, step: int) -> None:
    data = HOLDERS[name]
    chunks = [data[at : at + step] for at in range(0, len(data), step)]
    assert daemon.ask(instream(*chunks)) == FOUND


def test_a_benign_container_is_clean(daemon: Daemon) -> None:
    for data in (zipped({"a": b"benign"}), mailed(b"benign"), tarred({"t": b"x"})):
        assert daemon.ask(instream(data)) == CLEAN


def test_an_archive_that_cannot_be_opened_has_no_verdict(daemon: Daemon) -> None:
    data = zipped({"a": b"benign" * 50})
    assert daemon.ask(instream(data[:-30])) == UNREAD
    broken = bytearray(data)
    broken[40] ^= 0xFF
    assert daemon.ask(instream(bytes(broken))) == UNREAD


@pytest.mark.slow
@pytest.mark.parametrize("step", [5, 1 << 20])
def test_an_archive_behind_other_bytes_is_never_clean(
    daemon: Daemon, state: Path, step: int
) -> None:
    """A file of these bytes is opened; of a long stream, the first bytes decide what is kept."""
    rows = ((b"\1" * 100, FOUND), (b"\1" * 100_000, FOUND), (b"\1" * 2_000_000, UNREAD))
    for front, answer in rows[: 2 if step == 5 else 3]:
        data = front + HOLDERS["zip"]
        chunks = [data[at : at + step] for at in range(0, len(data), step)]
        assert daemon.ask(instream(*chunks)) == answer
        code = run("--state-dir", state, "scan", "-", stdin=data).code
        assert code == (10 if answer == FOUND else 3)


def test_many_in_one_session(daemon: Daemon) -> None:
    with daemon.connect() as sock:
        sock.sendall(b"zIDSESSION\0")
        for _ in range(10):
            sock.sendall(instream(HOLDERS["zip"]) + instream(b"benign") + instream(LISTED))
        sock.sendall(b"zEND\0")
        answers = everything(sock).split(b"\0")[:-1]
    assert sum(a.endswith(b"FOUND") for a in answers) == 20
    assert sum(a.endswith(b"OK") for a in answers) == 10


def test_descriptors_and_paths(daemon: Daemon, tmp_path: Path) -> None:
    tree = write_tree(tmp_path / "t", {"a.zip": HOLDERS["zip"], "b.zip": zipped({"b": b"b"})})
    fd = open_for_reading(tree / "a.zip")
    os.lseek(fd, 5, os.SEEK_SET)
    assert daemon.ask_descriptor(fd).endswith(b"Hashclient.base.e-1 FOUND\0")
    assert os.lseek(fd, 0, os.SEEK_CUR) == 5
    os.close(fd)
    assert daemon.ask(b"zCONTSCAN %s\0" % os.fsencode(tree)) == (
        b"%s/a.zip: Hashclient.base.e-1 FOUND\0" % os.fsencode(tree)
    )


SEALED = Zip().add(b"secret", b"cannot be read", STORED, flags=1).end()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("rule", "said"),
    [
        ("found", b"Heuristics.Limits.Exceeded.Hashclient.Unread FOUND"),
        ("error", b"encrypted, zip, encrypted. ERROR"),
        ("ok", b"OK"),
    ],
)
def test_a_path_is_answered_by_its_own_name(
    state: Path, tmp_path: Path, rule: str, said: bytes
) -> None:
    """Clients search the answer for their own path, and do not know the name of a member."""
    mixed = zipped({"a": LISTED, "b": LISTED, "c.zip": SEALED})
    tree = write_tree(tmp_path / "t", {"sealed": SEALED, "mixed": mixed})
    sealed, mixed_path = os.fsencode(tree / "sealed"), os.fsencode(tree / "mixed")
    found = b"Hashclient.base.e-1 FOUND"
    with serving(state, tmp_path / "run", "--no-verdict", rule) as daemon:
        for command in (b"SCAN", b"CONTSCAN", b"MULTISCAN", b"ALLMATCHSCAN"):
            answer = daemon.ask(b"z%s %s\0" % (command, sealed))
            assert answer == b"%s: %s\0" % (sealed, said)
        for command in (b"SCAN", b"CONTSCAN", b"MULTISCAN"):
            answer = daemon.ask(b"z%s %s\0" % (command, mixed_path))
            assert answer == b"%s: %s\0" % (mixed_path, found)
        lines = daemon.ask(b"zALLMATCHSCAN %s\0" % mixed_path).split(b"\0")[:-1]
        every = [found] if rule == "ok" else [found, said]
        assert lines == [b"%s: %s" % (mixed_path, each) for each in every]


def test_a_descriptor_of_an_archive_behind_other_bytes(daemon: Daemon, tmp_path: Path) -> None:
    tree = write_tree(tmp_path / "t", {"a": b"\1" * 300_000 + HOLDERS["zip"]})
    fd = open_for_reading(tree / "a")
    assert daemon.ask_descriptor(fd).endswith(b"Hashclient.base.e-1 FOUND\0")
    os.close(fd)


@pytest.mark.slow
def test_matches_in_streams_are_recorded(tmp_path: Path) -> None:
    state = make_state(tmp_path / "site", {"base": csv_of({"e-1": LISTED})})
    with serving(state, tmp_path / "run") as daemon:
        assert daemon.ask(instream(HOLDERS["mail"])) == FOUND
        assert f"serve:unix:{daemon.unix},uid=" in run("--state-dir", state, "matches").out
        assert "f.bin" in (state / "audit" / "log.jsonl").read_text()


@pytest.mark.slow
def test_records_of_mail_say_which_mail_it_was_and_metrics_do_not(tmp_path: Path) -> None:
    """The first match is recorded with its mail; repeats are counted with the last message ids."""
    state = make_state(tmp_path / "site", {"base": csv_of({"e-1": LISTED})})
    for _ in range(2):
        with serving(state, tmp_path / "run", "--jobs", "1", "--metrics", "127.0.0.1:0") as daemon:
            for number in range(1, 13):
                mail = b"Message-ID: <%d@example.org>\r\n" % number + HOLDERS["mail"]
                assert daemon.ask(instream(mail)) == FOUND
            with urllib.request.urlopen(daemon.metrics) as answer:
                assert b"example.org" not in answer.read()
    whole = {
        "message_id": "1@example.org",
        "sender": "a@example.org",
        "recipients": ["b@example.org"],
    }
    log = [json.loads(line) for line in (state / "audit" / "log.jsonl").read_text().splitlines()]
    events = [entry["data"] for entry in log if entry["event"] == "match"]
    assert [event["mail"] for event in events] == [whole] * 6
    counted = [(e["times"], e["message_ids"]) for e in events if "times" in e]
    ids = [f"{n}@example.org" for n in range(1, 13)]
    assert counted == [(9, ids[1:10]), (2, ids[10:])] * 2
    (line,) = run("--state-dir", state, "matches", "--format", "jsonl").lines
    show = ("--state-dir", state, "matches", "show", line["id"])
    shown = json.loads(run(*show, "--format", "json").out)
    steps = [s for s in shown["story"] if s["event"] != "in-member"]
    assert [s["event"] for s in steps] == ["found", *["seen-again"] * 5]
    # The facts are repeated each hour and at each start.
    assert [s["mail"] for s in steps if "mail" in s] == [whole] * 2
    assert [s["message_ids"] for s in steps if "message_ids" in s] == [ids[1:10], ids[10:]] * 2
    assert "mail: 1@example.org a@example.org b@example.org" in run(*show).out


@pytest.mark.slow
def test_matches_in_open_files_are_recorded_as_streams(tmp_path: Path) -> None:
    """A match in an open file is recorded under the socket and the client, not under a path."""
    state = make_state(tmp_path / "site", {"base": csv_of({"e-1": LISTED})})
    path = write_tree(tmp_path / "t", {"a.zip": HOLDERS["zip"]}) / "a.zip"
    with serving(state, tmp_path / "run") as daemon:
        fd = open_for_reading(path)
        assert daemon.ask_descriptor(fd).endswith(b"Hashclient.base.e-1 FOUND\0")
        os.close(fd)
    (line,) = run("--state-dir", state, "matches", "--format", "jsonl").lines
    assert line["path"] == f"serve:unix:{daemon.unix},uid={os.getuid()}"


@pytest.mark.slow
def test_they_are_left_closed_where_that_is_asked_for(state: Path, tmp_path: Path) -> None:
    with serving(state, tmp_path / "run", "--no-members") as daemon:
        assert daemon.ask(instream(HOLDERS["zip"])) == CLEAN
        assert daemon.ask(instream(LISTED)) == FOUND


@pytest.mark.slow
def test_without_room_there_is_no_verdict(state: Path, tmp_path: Path) -> None:
    big = zipped({"a": os.urandom(40 << 20), "x": LISTED})
    with serving(state, tmp_path / "run", "--spool-mib", 0) as daemon:
        # This stream fits into the memory of the spool.
        assert daemon.ask(instream(HOLDERS["zip"])) == FOUND
        assert daemon.ask(instream(big)) == UNREAD
        # The memory of the first stream is free again.
        assert daemon.ask(instream(HOLDERS["zip"])) == FOUND
    with serving(state, tmp_path / "run") as daemon:
        assert daemon.ask(instream(big)) == FOUND
    assert list((state / "spool").iterdir()) == []


@pytest.mark.slow
def test_rooms_are_given_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hashclient.scan.check.kept.MEMORY_BYTES", 100_000)
    room = Spool(tmp_path / "spool", 150_000)
    kept = [room.keep() for _ in range(3)]
    data = b"PK\3\4" + bytes(79_996)
    for each in kept:
        each.update(memoryview(data))
    fds = [each.finish() for each in kept]
    assert [each.failure is None for each in kept] == [True, True, False]
    assert (room.memory_bytes, room.disk_bytes) == (80_000, 80_000)
    for fd, each in zip(fds[:2], kept, strict=False):
        assert fd is not None
        assert os.pread(fd, len(data) + 1, 0) == data
        each.close()
    assert fds[2] is None
    assert (room.memory_bytes, room.disk_bytes) == (0, 0)
    assert list((tmp_path / "spool").iterdir()) == []
