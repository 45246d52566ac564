"""A connection at its limits: where its bytes are cut, how much may wait, and each way it ends."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import pytest

from hashclient.daemon import connection as module
from hashclient.daemon.client import MAX_OUT_BYTES
from hashclient.daemon.connection import (
    BARE_S,
    DRAIN_S,
    MAX_PENDING,
    SLOW_S,
    Connection,
)
from hashclient.daemon.counts import Count, Counts
from hashclient.daemon.protocol import OF_PATHS, Command
from hashclient.daemon.users import Peer, Share
from tests.clamd import OPTIONS, instream
from tests.kit import open_files

SESSION = b"zIDSESSION\0"
LOCAL, REMOTE = Peer("serve:s,uid=7", "uid=7", True), Peer("serve:t,from=::1", "from=::1", False)


class Upload:
    """A stream or file that a client sends."""

    def __init__(self, name: str, form: tuple[bytes, bytes], fd: int | None, began: float) -> None:
        self.name, self.form, self.fd, self.began = name, form, fd, began
        self.data = b""

    def update(self, chunk: memoryview) -> None:
        self.data += bytes(chunk)


class Talk:
    """A connection, its client's end, and the requests that the test answers."""

    def __init__(self, peer: Peer = LOCAL, **options: Any) -> None:
        self.now = 100.0
        self.uploads: list[Upload] = []
        self.ended: list[Upload] = []
        self.released: list[Upload] = []
        self.paths: list[tuple[Any, ...]] = []
        self.said: list[Command | None] = []
        self.resumed = 0
        self.closed: list[Connection] = []
        self.readers: dict[object, Callable[[], None]] = {}
        self.writers: dict[object, Callable[[], None]] = {}
        self.soon: list[Callable[[], None]] = []
        self.later: list[tuple[float, Callable[[], None]]] = []
        self.counts = Counts(1).row(0)
        loop = SimpleNamespace(
            add_reader=self.readers.__setitem__,
            remove_reader=self.readers.pop,
            add_writer=self.writers.__setitem__,
            remove_writer=self.writers.pop,
            call_soon=self.soon.append,
            call_later=lambda *given: self.later.append(given),
        )
        checks = SimpleNamespace(
            loop=loop,
            options=msgspec.structs.replace(OPTIONS, **options),
            counts=self.counts,
            buffer=memoryview(bytearray(1 << 16)),
            open_files=Share(9, 100),
            upload=self.upload,
            ended=self.ended.append,
            release=self.released.append,
            clean_answer=lambda data: b"stream: OK" if bytes(data[:5]) == b"clean" else None,
            without_verdict=lambda word, reason: f"{word}, {reason}",
            say=self.say,
            resume=self.resume,
            paths=SimpleNamespace(add=lambda client, job: self.paths.append((client, *job))),
            files=SimpleNamespace(add=lambda *_: None),
        )
        self.checks = checks
        self.ours, theirs = socket.socketpair()
        theirs.setblocking(False)
        self.ours.settimeout(9)
        self.connection = Connection(cast("Any", checks), theirs, peer, self.closed.append)

    def upload(
        self, name: str, client: Connection, form: tuple[bytes, bytes], fd: int | None = None
    ) -> Upload:
        assert client is self.connection
        self.uploads.append(Upload(name, form, fd, self.now))
        return self.uploads[-1]

    def say(self, command: Command | None, peer: Peer) -> str:
        assert peer is self.connection.peer
        self.said.append(command)
        return "?" if command is None else command.name

    def resume(self, client: Connection) -> None:
        assert client is self.connection
        self.resumed += 1

    def run(self) -> None:
        """Call what the event loop would call now."""
        while self.soon:
            self.soon.pop(0)()

    def send(self, *pieces: bytes) -> None:
        for piece in pieces:
            self.ours.sendall(piece)
            self.connection.readable()
            self.run()

    def end(self) -> None:
        """Close the client's sending side."""
        self.ours.shutdown(socket.SHUT_WR)
        self.connection.readable()
        self.run()

    def answer(self, upload: Upload, text: str = "done") -> None:
        self.connection.answer(upload.form, [text])
        self.run()

    def read(self) -> bytes:
        """Return the answers that have arrived."""
        self.ours.setblocking(False)
        found = b""
        with contextlib.suppress(BlockingIOError):
            while part := self.ours.recv(1 << 20):
                found += part
        self.ours.setblocking(True)
        return found

    def replace(self, sock: Socket, monkeypatch: pytest.MonkeyPatch) -> None:
        self.readers[sock] = self.readers.pop(self.connection._socket)
        monkeypatch.setattr(self.connection, "_socket", sock)

    @property
    def is_read(self) -> bool:
        """Whether the daemon reads from the client."""
        return bool(self.readers)


class Socket:
    """A socket whose client has gone: a read ends at once, or fails with an error."""

    def __init__(self, sock: socket.socket, error: OSError | None = None) -> None:
        self.close = sock.close
        self.error = error

    def recv_into(self, *_: object) -> int:
        if self.error is not None:
            raise self.error
        return 0

    recvmsg_into = recv_into

    def shutdown(self, _: int) -> None:
        raise OSError(errno.ENOTCONN, "not connected")


@pytest.fixture
def talks(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Talk]]:
    """Return a function that begins a connection, whose clock is `Talk.now`."""
    made: list[Talk] = []
    clock = SimpleNamespace(monotonic=lambda: made[-1].now if made else 100.0)
    monkeypatch.setattr(module, "time", clock)
    monkeypatch.setattr(module, "check_path", lambda *given: given)
    files = open_files()

    def begin(*given: Any, **options: Any) -> Talk:
        made.append(Talk(*given, **options))
        return made[-1]

    yield begin
    for one in made:
        one.connection.close()
        one.ours.close()
        assert one.closed == [one.connection]
        assert (one.readers, one.writers) == ({}, {})
    assert open_files() == files


def test_limits_of_a_connection() -> None:
    assert (MAX_PENDING, MAX_OUT_BYTES, SLOW_S) == (64, 65_536, 5.0)


def test_it_makes_no_difference_where_the_bytes_of_a_session_are_cut(
    talks: Callable[..., Talk],
) -> None:
    data = SESSION + instream(b"first", b"x") + instream(b"clean one") + instream(b"match")
    data += b"nPING\n" + instream() + b"zSCAN /a b\0zEND\0zPING\0"
    for cut in range(1, len(data)):
        talk = talks()
        talk.send(data[:cut], data[cut:])
        streams = [(one.name, one.form, one.data) for one in talk.ended]
        wanted = [(b"1: ", b"firstx"), (b"3: ", b"match"), (b"5: ", b"")]
        if len(streams) == 4:  # a cut stream is not answered at once
            wanted.insert(1, (b"2: ", b"clean one"))
        assert streams == [("stream", (n, b"\0"), data) for n, data in wanted], cut
        (path,) = talk.paths
        assert path[2:] == (talk.connection, Command.SCAN, "/a b", (b"6: ", b"\0"))
        said = b"2: stream: OK\0" if len(streams) == 3 else b""
        assert talk.read() == said + b"4: PING\n", cut
        assert talk.said == [Command.PING]
        assert (talk.closed, talk.connection._pending) == ([], len(streams) + 1)
        talk.connection.close()
        talk.ours.close()


def test_a_stream_that_comes_alone_is_answered_at_once(talks: Callable[..., Talk]) -> None:
    talk = talks()
    talk.send(SESSION, instream(b"clean"), instream(b"match", prefix=b"n"))
    (upload,) = talk.ended
    assert (upload.form, upload.data, upload.name) == ((b"2: ", b"\n"), b"match", "stream")
    # While an answer is due, a further stream takes the longer way to the same answer.
    talk.send(instream(b"clean"))
    assert talk.read() == b"1: stream: OK\x003: stream: OK\0"
    talk.answer(upload)
    assert talk.read() == b"2: done\n"
    talk.send(instream(b"clean")[:-1])
    assert (talk.read(), len(talk.uploads)) == (b"", 2)


@pytest.mark.parametrize(
    ("sent", "left"), [(1, 9), (9, 1), (10, 0)], ids=["some", "all but one", "all"]
)
def test_bytes_of_one_chunk_are_taken_as_they_come(
    talks: Callable[..., Talk], sent: int, left: int
) -> None:
    talk = talks()
    talk.send(b"zINSTREAM\0" + (10).to_bytes(4, "big"), b"x" * sent)
    (upload,) = talk.uploads
    assert (upload.data, talk.connection._parser.chunk_left) == (b"x" * sent, left)
    assert talk.connection._pace.came == 14 + sent
    talk.send(b"x" * left + bytes(3), b"\0")
    assert (upload.data, talk.ended, talk.closed) == (b"x" * 10, [upload], [])
    talk.answer(upload)
    assert (talk.read(), talk.closed) == (b"done\0", [talk.connection])


@pytest.mark.parametrize(("count", "taken"), [(63, 63), (64, 64), (65, 64), (200, 64)])
def test_so_many_requests_of_a_client_may_be_unanswered(
    talks: Callable[..., Talk], count: int, taken: int
) -> None:
    talk = talks()
    talk.send(SESSION, instream(b"match") * count)
    assert (len(talk.ended), talk.is_read) == (taken, count < MAX_PENDING)
    for number in range(count):
        assert len(talk.ended) > number
        talk.answer(talk.ended[number])
    assert talk.read() == b"".join(b"%d: done\0" % n for n in range(1, count + 1))
    assert talk.is_read and talk.connection.is_silent


@pytest.mark.parametrize(("count", "first"), [(511, 511), (512, 512), (513, 512), (1100, 512)])
def test_one_client_is_served_up_to_a_number_of_requests_and_then_others(
    talks: Callable[..., Talk], count: int, first: int
) -> None:
    talk = talks()
    talk.send(SESSION)
    talk.ours.sendall(b"zPING\0" * count)
    talk.connection.readable()
    assert len(talk.said) == first
    assert talk.is_read == (first == count)
    talk.run()
    assert (len(talk.said), talk.is_read) == (count, True)
    assert talk.read().count(b"PING\0") == count


def test_a_client_that_reads_no_answers_is_not_read_until_it_does(
    talks: Callable[..., Talk],
) -> None:
    talk = talks()
    for end in (talk.ours, talk.connection._socket):
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
    talk.send(SESSION + instream(b"match") + instream(b"match"))
    first, second = talk.ended
    talk.answer(first, "x" * (2 * MAX_OUT_BYTES))
    assert (talk.connection.has_room, talk.is_read, len(talk.writers)) == (False, False, 1)
    assert talk.connection.waits_for_client
    while not talk.connection.has_room:
        assert talk.resumed == 0
        talk.ours.recv(1 << 12)
        talk.connection.writable()
    assert (talk.resumed, talk.is_read) == (1, True)
    while talk.writers:
        talk.ours.recv(1 << 12)
        talk.connection.writable()
    assert talk.resumed == 1
    talk.answer(second)
    while talk.connection._out:
        talk.read()
        talk.connection.writable()
    assert (talk.connection.is_silent, talk.is_read) == (True, True)


@pytest.mark.parametrize("command", sorted(OF_PATHS, key=str))
@pytest.mark.parametrize("session", [False, True])
def test_a_path_is_passed_on_as_its_bytes(
    talks: Callable[..., Talk], command: Command, session: bool
) -> None:
    talk = talks()
    talk.send(SESSION * session + b"n" + command.value + b" /\xff \xc3\xa4\n")
    ((client, checks, same, asked, path, form),) = talk.paths
    assert client is same is talk.connection and checks is talk.checks
    assert (asked, path) == (command, os.fsdecode(b"/\xff \xc3\xa4"))
    assert form == (b"1: " * session, b"\n")
    assert talk.connection._is_ending is not session
    # Outside of a session, no second command is accepted.
    talk.send(b"zPING\0")
    assert talk.said == [Command.PING] * session


@pytest.mark.parametrize(
    ("sent", "said"),
    [
        (b"zEND\0", [Command.END]),
        (b"zNONSENSE\0", [None]),
        (b"zPING\0zPING\0", [Command.PING]),
        (b"zVERSION\0", [Command.VERSION]),
        (SESSION + b"zNONSENSE\0zSTATS\0zEND\0zPING\0", [None, Command.STATS]),
        (SESSION + SESSION + b"zPING\0zEND\0", [Command.PING]),
    ],
)
def test_commands_end_a_connection_outside_of_a_session(
    talks: Callable[..., Talk], sent: bytes, said: list[Command | None]
) -> None:
    talk = talks()
    talk.send(sent)
    assert (talk.said, talk.closed) == (said, [talk.connection])


@pytest.mark.parametrize(("late", "count"), [(0.0, 0), (0.1, 1)])
@pytest.mark.parametrize("session", [False, True])
def test_a_stream_that_takes_too_long_is_refused_with_its_number(
    talks: Callable[..., Talk], late: float, count: int, session: bool
) -> None:
    talk = talks(stream_s=50.0, idle_s=1e9)
    talk.send(SESSION * session, b"nINSTREAM\n" + (9).to_bytes(4, "big") + b"x")
    talk.connection.look(150.0 + late)
    talk.run()
    said = b"1: " * session + b"stream: Length, the stream takes too long.\n"
    assert talk.read() == said * count
    assert (talk.released, talk.counts.of(Count.TOO_LONG)) == (talk.uploads * count, count)
    assert (talk.counts.of(Count.BROKEN), talk.counts.of(Count.IDLE)) == (0, 0)
    # The client may still read the answer, and what it sends is discarded.
    assert [seconds for seconds, _ in talk.later] == [DRAIN_S] * count
    talk.send(b"rest")
    assert (talk.closed, len(talk.uploads), talk.ended) == ([], 1, [])
    if count:
        talk.connection.close()
        assert talk.released == talk.uploads  # once


@pytest.mark.parametrize(("late", "closed"), [(0.0, 0), (0.1, 1)])
@pytest.mark.parametrize(
    ("sent", "limit"), [(b"", "idle_s"), (b"zPIN", "command_s"), (SESSION + b"zPI", "command_s")]
)
def test_a_client_that_sends_nothing_or_no_whole_command_is_closed(
    talks: Callable[..., Talk], late: float, closed: int, sent: bytes, limit: str
) -> None:
    talk = talks(**{"idle_s": 1e9, "command_s": 1e9, limit: 20.0})
    if sent:
        talk.send(sent)
    talk.connection.last = 100.0
    talk.connection.look(100.0)
    talk.connection.look(120.0 + late)
    assert (len(talk.closed), talk.counts.of(Count.IDLE)) == (closed, closed)


def test_a_client_that_waits_for_the_daemon_is_not_idle(talks: Callable[..., Talk]) -> None:
    talk = talks(idle_s=20.0)
    talk.send(SESSION + instream(b"match"))
    waits = [talk.connection.waits_for_client]
    talk.connection.last = 100.0
    talk.connection.look(500.0)
    assert talk.closed == []
    talk.send(b"zFILDES\0")
    waits.append(talk.connection.waits_for_client)
    assert waits == [False, True]
    talk.connection.last = 100.0
    talk.connection.look(500.0)
    assert talk.closed == [talk.connection]


def test_slowness_is_measured_by_the_rate_of_the_options(talks: Callable[..., Talk]) -> None:
    talk = talks(min_rate=10)
    talk.send(b"zINSTREAM\0" + (999).to_bytes(4, "big"))
    talk.connection.look(100.0)
    assert not talk.connection.is_slow(105.0)
    assert talk.connection.is_slow(105.1)
    talk.send(b"x" * 51)
    assert [talk.connection.is_slow(at) for at in (105.1, 105.2)] == [False, True]


@pytest.mark.parametrize(
    ("sent", "broken", "said"),
    [
        (b"", 0, b""),
        (b"PING", 0, b"PING\n"),
        (b"SCAN /a", 0, b""),
        (b"zPING", 0, b""),
        (b"zINSTREAM\0", 1, b""),
        (instream(b"match")[:-1], 1, b""),
        (b"zFILDES\0", 1, b""),
        (SESSION + b"zPING\0", 0, b"1: PING\0"),
        (SESSION + b"PING", 0, b"1: PING\n"),
    ],
)
def test_the_end_of_what_a_client_sends(
    talks: Callable[..., Talk], sent: bytes, broken: int, said: bytes
) -> None:
    """A stream that was cut has no answer; an old command needs no delimiter."""
    talk = talks()
    if sent:
        talk.send(sent)
    talk.end()
    assert (talk.read(), talk.counts.of(Count.BROKEN)) == (said, broken)
    assert talk.released == talk.uploads
    assert len(talk.paths) == (sent == b"SCAN /a")
    assert len(talk.closed) == (not talk.paths)


def test_a_client_that_has_sent_all_still_gets_its_answers(talks: Callable[..., Talk]) -> None:
    talk = talks()
    talk.send(SESSION + instream(b"match"))
    talk.end()
    assert talk.closed == []
    talk.answer(talk.ended[0])
    assert (talk.read(), talk.closed) == (b"1: done\0", [talk.connection])


@pytest.mark.parametrize(
    ("sent", "said"),
    [
        (b"z" + b"x" * 5_000, b"COMMAND TOO LONG. ERROR\0"),
        (SESSION + b"n" + b"x" * 5_000, b"COMMAND TOO LONG. ERROR\0"),
        (b"nINSTREAM\n" + (101).to_bytes(4, "big"), None),
    ],
)
def test_a_client_that_breaks_the_protocol_gets_an_error_and_is_not_read_any_more(
    talks: Callable[..., Talk], sent: bytes, said: bytes | None
) -> None:
    talk = talks(max_stream_bytes=100)
    talk.send(sent + b"zPING\0")
    wanted = said or b"stream: Length, INSTREAM size limit exceeded.\n"
    assert talk.read() == wanted
    counts = [talk.counts.of(count) for count in (Count.BROKEN, Count.TOO_LONG)]
    assert counts == ([1, 0] if said else [0, 1])
    assert (talk.released, talk.said, talk.closed) == (talk.uploads, [], [])
    talk.send(b"zPING\0")
    assert talk.said == []
    ((seconds, close),) = talk.later
    close()
    assert (seconds, talk.closed) == (DRAIN_S, [talk.connection])


def test_a_client_over_a_network_has_time_to_read_the_answer(talks: Callable[..., Talk]) -> None:
    talk = talks(REMOTE)
    talk.send(b"zPING\0")
    assert (talk.read(), talk.ours.recv(9), talk.closed) == (b"PING\0", b"", [])
    assert [seconds for seconds, _ in talk.later] == [DRAIN_S] and talk.is_read
    talk.end()
    assert talk.closed == [talk.connection]


def test_a_client_over_a_network_that_has_gone_is_closed_at_once(
    talks: Callable[..., Talk], monkeypatch: pytest.MonkeyPatch
) -> None:
    talk = talks(REMOTE)
    talk.replace(Socket(talk.connection._socket), monkeypatch)
    talk.connection.readable()
    assert (talk.closed, talk.later) == ([talk.connection], [])


@pytest.mark.parametrize(
    ("error", "closed"),
    [(BlockingIOError(), 0), (InterruptedError(), 0), (ConnectionResetError(), 1)],
)
@pytest.mark.parametrize("peer", [LOCAL, REMOTE])
def test_a_read_that_fails(
    talks: Callable[..., Talk],
    monkeypatch: pytest.MonkeyPatch,
    error: OSError,
    closed: int,
    peer: Peer,
) -> None:
    talk = talks(peer)
    talk.connection.last = 5.0

    talk.replace(Socket(talk.connection._socket, error), monkeypatch)
    talk.connection.readable()
    assert (len(talk.closed), talk.connection.last) == (closed, 5.0)


@pytest.mark.parametrize(
    ("peer", "pieces", "is_handled"),
    [
        (LOCAL, (b"SCAN /a",), True),
        (LOCAL, (b"SCAN ", b"/a"), False),
        (LOCAL, (b"SCAN a",), False),
        (LOCAL, (b"SCAN /a\n",), True),
        (LOCAL, (SESSION, b"SCAN /a"), False),
        (REMOTE, (b"SCAN /a",), False),
        (REMOTE, (b"VERSION",), True),
        (LOCAL, (b"VER", b"SION"), True),
        (LOCAL, (SESSION, b"VERSION"), True),
    ],
)
def test_an_old_command_without_an_end_is_handled_after_a_moment_if_it_is_whole(
    talks: Callable[..., Talk], peer: Peer, pieces: tuple[bytes, ...], is_handled: bool
) -> None:
    """A path that was cut would name another file."""
    talk = talks(peer)
    talk.send(*pieces)
    timers = [seconds for seconds, _ in talk.later]
    assert timers == ([] if pieces[-1].endswith(b"\n") else [BARE_S])
    talk.now += BARE_S
    for _, bare in list(talk.later):
        bare()
    talk.run()
    assert bool(talk.said or talk.paths) is is_handled


def test_a_moment_begins_anew_with_each_piece_and_ends_with_the_connection(
    talks: Callable[..., Talk],
) -> None:
    talk = talks()
    talk.send(b"VER")
    talk.now += BARE_S / 2
    talk.send(b"SION")
    assert len(talk.later) == 1
    talk.now += BARE_S / 2
    talk.later.pop()[1]()
    assert (talk.said, len(talk.later)) == ([], 1)
    talk.connection.close()
    talk.now += 1
    talk.later.pop()[1]()
    assert (talk.said, talk.later) == ([], [])


def test_what_a_closed_connection_holds_is_given_back_once(talks: Callable[..., Talk]) -> None:
    talk = talks()
    talk.send(b"zINSTREAM\0")
    for _ in range(2):
        talk.connection.close()
    assert (talk.released, talk.closed) == (talk.uploads, [talk.connection])
    talk.answer(talk.uploads[0])
    talk.connection.writable()
    talk.connection._go_on()
    assert talk.soon == []


@pytest.mark.parametrize("data", [SESSION, SESSION + b"zPING\0", SESSION + b"zPI", b"zPI"])
def test_a_descriptor_that_no_command_takes_is_closed(
    talks: Callable[..., Talk], data: bytes
) -> None:
    talk = talks()
    before = open_files()
    sent = os.open("/dev/null", os.O_RDONLY)
    socket.send_fds(talk.ours, [data], [sent])
    os.close(sent)
    talk.connection.readable()
    talk.run()
    assert open_files() == before


def test_a_descriptor_that_waits_behind_unanswered_requests_is_closed_with_its_connection(
    talks: Callable[..., Talk],
) -> None:
    talk = talks()
    talk.send(SESSION, instream(b"listed") * MAX_PENDING)
    before = open_files()
    sent = os.open("/dev/null", os.O_RDONLY)
    socket.send_fds(talk.ours, [instream(b"listed") * 99], [sent])
    os.close(sent)
    talk.answer(talk.uploads[0])
    talk.connection.readable()
    assert open_files() == before + 1 and talk.connection._rest
    talk.connection.close()
    assert open_files() <= before
