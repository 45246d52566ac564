"""The process that opens containers: what the sandbox forbids, and what follows its death."""

from __future__ import annotations

import io
import os
import signal
import socket
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator, Sequence
from email.header import Header
from pathlib import Path

import pytest

from fixtures import images, mails
from fixtures.ole import ole_of
from hashclient.containers import cage as cage_module
from hashclient.containers import protocol
from hashclient.containers.cage import Cage, Found
from hashclient.containers.child import FileData
from hashclient.containers.interface import NotReadError, Why
from hashclient.containers.limits import Limits, Options
from hashclient.containers.protocol import (
    Channel,
    Done,
    Job,
    Ready,
    Row,
    Rows,
    decode_to_worker,
)
from hashclient.containers.sandbox import Locks, kernel_locks
from hashclient.core.model import Mail
from tests.kit import descriptors_left, open_files

needs_locks = pytest.mark.skipif(
    not kernel_locks().are_whole, reason="this kernel has no Landlock or no seccomp"
)

#: Attempts to leave the sandbox, by name; the process enters the sandbox before each attempt.
ATTEMPTS = {
    "open a file": "open('/etc/hostname')",
    "open for writing": "open('/tmp/x', 'w')",
    "list a directory": "os.listdir('/')",
    "look at a file": "os.stat('/etc/hostname')",
    "make a directory": "os.mkdir('/tmp/x')",
    "remove": "os.unlink('/tmp/x')",
    "its own memory": "open('/proc/self/mem')",
    "reopen what is open": "os.open('/proc/self/fd/0', os.O_RDWR)",
    "change the mode of what is open": "os.fchmod(0, 0o777)",
    "give away what is open": "os.fchown(0, 1, 1)",
    "network": "socket.socket()",
    "local sockets": "socket.socket(socket.AF_UNIX)",
    "a pair of sockets": "socket.socketpair()",
    "fork": "os.fork()",
    "exec": "os.execv('/bin/true', ['true'])",
    "thread": "import _thread; _thread.start_new_thread(print, ())",
    "kill the parent": "os.kill(os.getppid(), 9)",
    "trace": "check(libc.ptrace(16, os.getppid(), 0, 0))",
    "read the memory of others": "check(libc.process_vm_readv(os.getppid(), 0, 0, 0, 0, 0))",
    "another name": "check(libc.unshare(0x10000000))",
    "mount": "check(libc.mount(b'none', b'/', b'tmpfs', 0, None))",
    "memory that runs": "import mmap; mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_EXEC)",
    "unlock": "check(libc.prctl(22, 0, 0, 0, 0))",
    "raise a limit": "import resource; resource.setrlimit(resource.RLIMIT_CORE, (1, 1))",
    "a shared memory": "check(libc.shmget(0, 4096, 0o600))",
    "io_uring": "check(libc.syscall(425, 1, 0))",
    "a file by its handle": "check(libc.open_by_handle_at(0, 0, 0))",
    "a new file in memory": "os.memfd_create('x')",
}
_SCRIPT = """
import ctypes, errno, mmap, os, socket, sys, _thread, resource
libc = ctypes.CDLL(None, use_errno=True)
def check(result):
    if result < 0:
        raise OSError(ctypes.get_errno(), "refused")
from hashclient.containers.sandbox import lock
locks = lock(1 << 28, 60)
for line in sys.argv[1:]:
    try:
        exec(line)
    except (OSError, RuntimeError, ValueError):
        os.write(1, b"refused\\n")
    else:
        os.write(1, line.encode() + b"\\n")
"""


@needs_locks
def test_no_attempt_to_get_out_succeeds() -> None:
    done = subprocess.run(
        [sys.executable, "-c", _SCRIPT, *ATTEMPTS.values()],
        capture_output=True,
        timeout=60,
        check=True,
        stdin=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )
    said = done.stdout.decode().splitlines()
    assert dict(zip(ATTEMPTS, said, strict=True)) == dict.fromkeys(ATTEMPTS, "refused")


def tar_of(**files: bytes) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return out.getvalue()


def masks(sizes: Sequence[int | None]) -> bytes:
    return bytes([4]) * len(sizes)


def opened(cage: Cage, path: Path) -> list[Found]:
    found: list[Found] = []
    fd = os.open(path, os.O_RDONLY)
    try:
        size = os.fstat(fd).st_size
        cage.open(fd, size, Job(size, 4, 4, forced=False), found.extend)
    finally:
        os.close(fd)
    return found


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    path = tmp_path / "a.tar"
    path.write_bytes(tar_of(a=b"one", b=b"two"))
    return path


@pytest.fixture
def cage() -> Iterator[Cage]:
    made = Cage(Options(), masks)
    yield made
    made.close()


def test_it_is_started_once_and_is_locked_up(cage: Cage, archive: Path) -> None:
    assert cage.locks is None
    first = [one.chain for one in opened(cage, archive)]
    process = cage._process
    assert first == [(b"a",), (b"b",)]
    assert [one.chain for one in opened(cage, archive)] == first
    assert cage._process is process
    assert cage.locks == kernel_locks()


def test_it_has_nothing_of_ours(cage: Cage, archive: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It gets no environment variable, no argument except its import path, and no open file."""
    monkeypatch.setenv("HASHCLIENT_SEAL_KEY", "00" * 32)
    kept = os.open(archive, os.O_RDONLY)
    try:
        os.set_inheritable(kept, True)
        opened(cage, archive)
        assert cage._process is not None
        # The process is not dumpable, so only root may read its files in /proc.
        place = Path(f"/proc/{cage._process.pid}")
        if os.geteuid() == 0:
            assert b"HASHCLIENT" not in (place / "environ").read_bytes()
            links = [str(fd.readlink()) for fd in (place / "fd").iterdir()]
            assert {link.split(":")[0] for link in links} == {"/dev/null", "socket"}
    finally:
        os.close(kept)


@pytest.mark.sampled
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV, signal.SIGSYS])
def test_one_that_is_killed_is_replaced(cage: Cage, archive: Path, number: signal.Signals) -> None:
    opened(cage, archive)
    process = cage._process
    assert process is not None
    process.send_signal(number)
    process.wait()
    with pytest.raises(NotReadError) as caught:
        opened(cage, archive)
    assert caught.value.why is Why.FAILED
    assert number.name in caught.value.detail
    assert len(opened(cage, archive)) == 2
    assert cage._process is not process


@pytest.mark.slow
def test_it_ends_with_who_started_it(archive: Path) -> None:
    script = (
        "import os, signal, sys\n"
        "from tests.unit.test_containers_cage import Cage, Options, masks, opened\n"
        "from pathlib import Path\n"
        "cage = Cage(Options(), masks)\n"
        "opened(cage, Path(sys.argv[1]))\n"
        "print(cage._process.pid, flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    root = str(Path(__file__).parents[2])
    done = subprocess.run(
        [sys.executable, "-c", script, archive],
        capture_output=True,
        timeout=60,
        check=False,
        env={**os.environ, "PYTHONPATH": root},
        cwd=root,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    pid = int(done.stdout)
    deadline = time.monotonic() + 60
    while Path(f"/proc/{pid}").exists():
        if Path(f"/proc/{pid}/stat").read_text().split()[2] == "Z":
            break
        assert time.monotonic() < deadline
        os.sched_yield()


@pytest.mark.slow
def test_one_that_takes_too_long_is_ended(archive: Path) -> None:
    cage = Cage(Options(Limits(time_s=1)), masks)
    opened(cage, archive)
    assert cage._process is not None
    os.kill(cage._process.pid, signal.SIGSTOP)
    with pytest.raises(NotReadError) as caught:
        opened(cage, archive)
    assert (caught.value.why, "seconds" in caught.value.detail) == (Why.LIMIT, True)
    assert cage._process is None
    cage.close()  # type: ignore[unreachable]


def test_one_that_cannot_be_started_is_reported_and_not_tried_for_ever(
    archive: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", "/nonexistent/python")
    cage = Cage(Options(), masks)
    said = []
    for _ in range(6):
        with pytest.raises(NotReadError) as caught:
            opened(cage, archive)
        said.append(caught.value.detail)
    assert "cannot be started" in said[0]
    assert "keeps dying" in said[-1]


@pytest.mark.slow
def test_one_without_room_to_start_is_tried_again(archive: Path, cage: Cage) -> None:
    before = open_files()
    with descriptors_left(4):
        for _ in range(cage_module.MAX_VAIN_STARTS + 1):
            with pytest.raises(OSError, match="Too many open files"):
                opened(cage, archive)
            assert not cage.has_failed
    assert open_files() == before
    assert len(opened(cage, archive)) == 2


@needs_locks
@pytest.mark.parametrize("kind", ["image", "document", "mail"])
def test_names_in_all_scripts_are_read_in_the_sandbox(
    tmp_path: Path, cage: Cage, kind: str
) -> None:
    """The sandbox forbids loading codecs, so they are loaded before."""
    words = {
        "utf-8": "\u20ac\u5b57",
        "iso-8859-2": "\u0142",
        "windows-1252": "\u20ac",
        "koi8-r": "\u0436",
        "gb2312": "\u4e2d",
        "big5": "\u4e2d",
        "iso-2022-jp": "\u5b57",
        "shift_jis": "\u5b57",
        "euc-kr": "\uac00",
    }
    path = tmp_path / "x"
    if kind == "image":
        path.write_bytes(images.image_of(None, None, dict.fromkeys(words.values(), b"benign")))
    elif kind == "document":
        path.write_bytes(ole_of(dict.fromkeys(words.values(), b"benign")))
    else:
        names = [Header(word, charset).encode() for charset, word in words.items()]
        path.write_bytes(mails.multipart(*(mails.base64_part(name, b"benign") for name in names)))
    found = opened(cage, path)
    assert not any(one.row.why for one in found)
    assert {word.encode() for word in words.values()} <= {one.row.name for one in found}


def test_a_file_that_gives_less_than_is_asked_for_is_read_on_to_what_is_wanted() -> None:
    """A `read` of a kernel file or a network file may return fewer bytes than it asks for."""
    path = Path("/proc/kallsyms")
    if not path.exists():
        pytest.skip("no file that gives a page at a time")
    wanted = 9_001
    fd = os.open(path, os.O_RDONLY)
    try:
        assert len(os.pread(fd, wanted, 0)) < wanted
        data = FileData(fd, 5 * wanted)
        begin = b"".join(os.pread(fd, 1, at) for at in range(20))
        first, second = data.read_at(0, wanted), data.read_at(20, wanted)
    finally:
        os.close(fd)
    assert (len(first), len(second), data.bytes_read) == (wanted, wanted, 2 * wanted)
    assert first[:20] == begin and second[: wanted - 20] == first[20:]


_WITHOUT_ROOM = """
import ctypes, os, struct
from hashclient.containers.sandbox import lock
libc = ctypes.CDLL(None, use_errno=True)
libc.prctl(38, 1, 0, 0, 0)
allow = struct.pack("=HBBL", 6, 0, 0, 0x7FFF0000)
code = ctypes.create_string_buffer(allow * 4096)
for count in (4096, 256, 16, 1):
    program = ctypes.create_string_buffer(struct.pack("@HP", count, ctypes.addressof(code)))
    while libc.prctl(22, 2, program, 0, 0) == 0:
        pass
os.write(1, b"%d" % lock(1 << 28, 60).seccomp)
"""


@needs_locks
def test_a_filter_that_the_kernel_does_not_take_is_not_in_force() -> None:
    """The kernel limits the total length of a process's seccomp filters. The test uses it up."""
    done = subprocess.run([sys.executable, "-c", _WITHOUT_ROOM], capture_output=True, check=True)
    assert done.stdout == b"0"


def test_a_sandbox_that_is_required_and_not_there(
    archive: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = protocol.decode_to_worker

    def without(raw: bytes) -> object:
        message = real(raw)
        return Ready(Locks(0, seccomp=True)) if isinstance(message, Ready) else message

    monkeypatch.setattr(cage_module, "decode_to_worker", without)
    cage = Cage(Options(requires_sandbox=True), masks)
    with pytest.raises(NotReadError, match="no Landlock"):
        opened(cage, archive)
    assert cage._process is None


class Liar:
    """A process that an attacker controls: it sends any messages."""

    def __init__(self, *messages: protocol.ToWorker | bytes) -> None:
        ours, self.theirs = socket.socketpair()
        self.cage = Cage(Options(Limits(members=10, depth=3)), masks)
        self.cage._channel = Channel(ours)
        for message in messages:
            body = message if isinstance(message, bytes) else protocol.encode(message)
            self.theirs.sendall(len(body).to_bytes(4, "little") + body)

    def open(self, path: Path) -> list[Found]:
        try:
            return opened(self.cage, path)
        finally:
            self.theirs.close()
            self.cage.close()


def rows(
    *found: Row, containers: Sequence[tuple[int, int, bytes]] = (), mail: Mail | None = None
) -> Rows:
    return Rows([(*one, mail) for one in containers], list(found))


DIGEST = bytes(32)
LIES: list[protocol.ToWorker | bytes] = [
    b"\xc1",
    b"",
    rows(Row(0, b"x", 1, 4, DIGEST[:-1])),
    rows(Row(0, b"x", 1, 9, DIGEST)),
    rows(Row(0, b"x", -1, 4, DIGEST)),
    rows(Row(0, b"x", None, 4, DIGEST)),
    rows(Row(7, b"x", 1, 4, DIGEST)),
    rows(Row(0, b"x" * 5_000, 1, 4, DIGEST)),
    rows(Row(0, b"x", 1)),
    rows(Row(0, b"x", 1, 4, DIGEST, why="damaged")),
    rows(Row(0, b"x", 1, why="clean")),
    rows(containers=[(0, 0, b"x")]),
    rows(containers=[(1, 5, b"x")]),
    rows(containers=[(n, n - 1, b"x") for n in range(1, 6)]),
    rows(containers=[(1, 0, b"x" * 4_097)]),
    rows(containers=[(1, 0, b"x"), (1, 0, b"y")]),
    rows(Row(0, b"x" * 4_097, 1, 4, DIGEST)),
    rows(Row(0, b"x", 1 << 63, ruled_out=True)),
    rows(Row(0, b"x", 1, 4, DIGEST, ruled_out=True)),
    rows(Row(0, b"", None, not_opened="zip")),
    rows(Row(0, b"", 1, 4, DIGEST, not_opened="luks")),
    rows(*[Row(0, b"x", 1, 4, DIGEST)] * 45),
    rows(containers=[(1, 0, b"x")], mail=Mail("<script>")),
    rows(containers=[(1, 0, b"x")], mail=Mail(sender="a b@example.org")),
    rows(containers=[(1, 0, b"x")], mail=Mail(sender="x" * 5_000)),
    rows(containers=[(1, 0, b"x")], mail=Mail(recipients=("a@example.org\n",))),
    rows(containers=[(1, 0, b"x")], mail=Mail(recipients=("a@example.org",) * 11)),
    Ready(Locks(7, seccomp=True)),
]


@pytest.mark.parametrize("lie", LIES, ids=range(len(LIES)))
def test_an_impossible_message_is_not_believed(
    archive: Path, lie: protocol.ToWorker | bytes
) -> None:
    with pytest.raises(NotReadError) as caught:
        Liar(lie, Done(0, is_tired=False)).open(archive)
    assert caught.value.why is Why.FAILED


@pytest.mark.parametrize(
    "truth",
    [
        rows(containers=[(n, n - 1, b"x") for n in range(1, 5)]),
        rows(containers=[(1, 0, b"x" * 4_096), (9, 0, b"y")]),
        rows(*[Row(0, b"x", 1, 4, DIGEST)] * 44),
        rows(Row(0, b"x" * 4_096, 0, 4, DIGEST)),
        rows(Row(0, b"x", (1 << 63) - 1, ruled_out=True)),
        rows(Row(0, b"x", None, why="damaged")),
        rows(Row(0, b"", None, not_opened="luks")),
        *(
            rows(Row(0, b"x", 1, mask, bytes(length)))
            for mask, length in ((1, 16), (2, 20), (3, 36), (4, 32), (5, 48), (6, 52), (7, 68))
        ),
    ],
    ids=range(14),
)
def test_a_message_at_the_limits_is_believed(archive: Path, truth: Rows) -> None:
    assert len(Liar(truth, Done(0, is_tired=False)).open(archive)) == len(truth.rows)


def test_a_message_that_is_too_long_is_not_waited_for(archive: Path) -> None:
    liar = Liar()
    liar.theirs.sendall(b"\xff\xff\xff\x7f")
    with pytest.raises(NotReadError):
        liar.open(archive)


def test_one_that_is_tired_is_replaced(archive: Path) -> None:
    liar = Liar(Done(5, is_tired=True))
    liar.open(archive)
    assert liar.cage._channel is None


_ENDLESS = """
import socket, sys
from hashclient.containers.child import Stall, serve
from hashclient.containers.limits import Limits, MIB
from hashclient.containers.protocol import Channel, Setup
from hashclient.containers.sandbox import lock

class Endless:
    name, seeks = "endless", True
    def members(self, data):
        data.read_at(0, 1)
        while True:
            pass
        yield []

class Registry:
    def named(self, kind): return []
    def most_members(self, name): return None
    def has_readings(self, name): return False
    def pick(self, head, tail, size=0, read_at=None): return [Endless()]

channel = Channel(socket.socket(fileno=int(sys.argv[1])))
stall = Stall(0.1)
lock(512 * MIB, 60)
serve(channel, Setup(Limits(), 0), Registry(), stall)
"""


def test_a_reader_without_an_end_ends_and_the_process_opens_the_next_file(archive: Path) -> None:
    ours, theirs = socket.socketpair()
    with (
        ours,
        subprocess.Popen(
            [sys.executable, "-c", _ENDLESS, str(theirs.fileno())], pass_fds=[theirs.fileno()]
        ) as process,
    ):
        theirs.close()
        channel = Channel(ours)
        for _ in range(2):
            with archive.open("rb") as file:
                channel.send(Job(archive.stat().st_size, 4, None, False), [file.fileno()])
            rows = decode_to_worker(channel.receive())
            assert isinstance(rows, Rows)
            (row,) = rows.rows
            assert (row.why, "found nothing more" in row.detail) == (Why.LIMIT, True)
            assert isinstance(decode_to_worker(channel.receive()), Done)
        ours.close()
    assert process.returncode != 0
