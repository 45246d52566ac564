"""Gateway programs: found, set up by the recipes of the document, started and stopped.

Of a recipe, only paths, ports and users are replaced. Each replaced text must occur in the recipe.
A program runs in a new session, and the remaining processes of the session are killed at the end.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import pytest

from tests.docs.blocks import DOCS, marked_blocks
from tests.kit import wait_until

DOCUMENT = DOCS / "daemon.md"
SOCKET = "/run/hashclient/clamd.sock"
#: Directories of programs for root, which are not in the `PATH` of all users.
_SEARCHED = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin:/usr/local/sbin"
TIMEOUT_S = 60

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="the program has to be started by root")


def program(name: str) -> str | None:
    """Return the path of a program, or None if it is not installed."""
    return shutil.which(name, path=_SEARCHED)


def needs(*names: str) -> pytest.MarkDecorator:
    """Return a mark that skips tests if a named program is missing."""
    missing = [name for name in names if program(name) is None]
    return pytest.mark.skipif(bool(missing), reason=f"not installed: {' '.join(missing)}")


def recipe(name: str, places: Mapping[str, object]) -> str:
    """Return the document's block that is marked with `name`, with `places` replaced."""
    (text,) = marked_blocks(DOCUMENT, name)
    for old, new in places.items():
        assert old in text, (name, old)
        text = text.replace(old, str(new))
    return text


def give(path: Path, user: str) -> None:
    """Make a user the owner of a file or directory, if the process may do so."""
    if os.geteuid() == 0:
        entry = pwd.getpwnam(user)
        os.chown(path, entry.pw_uid, entry.pw_gid)


def listens(address: tuple[str, int] | str) -> bool:
    """Return whether a process listens at a port, or at a socket in the file system."""
    with socket.socket(socket.AF_UNIX if isinstance(address, str) else socket.AF_INET) as probe:
        return probe.connect_ex(address) == 0


@contextlib.contextmanager
def running(
    command: Sequence[object], ready: Callable[[], bool], log: Path, **environ: str
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a program in the foreground, and yield when it is ready; its output is in `log`."""
    with (
        log.open("wb") as out,
        subprocess.Popen(
            [str(word) for word in command],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            cwd=log.parent,
            env={**os.environ, **environ},
            start_new_session=True,
        ) as process,
    ):
        try:

            def is_ready() -> bool:
                assert process.poll() is None, log.read_text(errors="replace")
                return ready()

            wait_until(is_ready, process.pid)
            yield process
        finally:
            process.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(5)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def output_of(*command: object, data: bytes | None = None) -> tuple[int, str]:
    """Run a program to its end, and return its exit code and all its output."""
    done = subprocess.run(
        [str(word) for word in command],
        input=data if data is not None else b"",
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=TIMEOUT_S,
        check=False,
    )
    return done.returncode, done.stdout.decode(errors="replace")
