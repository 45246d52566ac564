"""The program of `attacker`: repeats steps as another user until SIGTERM ends it.

The program runs as `python -I -S`. It imports everything before it gives up its privileges, because
afterwards it may not be able to read Python's own files. Its only argument is a JSON object with
`uid`, `steps` and `most_pause_us`. It prints a line after its first round. On SIGTERM it ends its
round, undoes nothing, and prints the number of its rounds and of its successful steps. It also ends
if the process that started it has ended.
"""

from __future__ import annotations

import ctypes
import json
import os
import random
import signal
import socket
import sys
import time
from pathlib import Path

#: The last nanoseconds of a pause, in which the loop runs instead of sleeping, because a sleep may
#: last too long.
_COARSE_NS = 500_000
_AT_FDCWD = -100
_RENAME_EXCHANGE = 2
_libc = ctypes.CDLL(None, use_errno=True)


def _exchange(one: str, other: str) -> None:
    names = os.fsencode(one), os.fsencode(other)
    if _libc.renameat2(_AT_FDCWD, names[0], _AT_FDCWD, names[1], _RENAME_EXCHANGE):
        raise OSError(ctypes.get_errno(), "renameat2")


def _link(name: str, target: str) -> None:
    Path(f"{name}.new-link").symlink_to(target)
    Path(f"{name}.new-link").replace(name)


def _hard_link(name: str, target: str) -> None:
    os.link(target, f"{name}.new-hard", follow_symlinks=False)
    Path(f"{name}.new-hard").replace(name)


def _write(name: str, text: str) -> None:
    Path(f"{name}.new-file").write_text(text)
    Path(f"{name}.new-file").replace(name)


def _socket(name: str, _: str) -> None:
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(name)


_STEPS = {
    "exchange": _exchange,
    "rename": os.rename,
    "link": _link,
    "hard_link": _hard_link,
    "write": _write,
    "mkdir": lambda name, _: Path(name).mkdir(),
    "mkfifo": lambda name, _: os.mkfifo(name),
    "socket": _socket,
    "remove": lambda name, _: Path(name).unlink(),
    "rmdir": lambda name, _: Path(name).rmdir(),
}


def main() -> None:
    """Give up all privileges, then repeat the steps."""
    given = json.loads(sys.argv[1])
    ended: list[int] = []
    parent = os.getppid()
    signal.signal(signal.SIGTERM, lambda *_: ended.append(1))
    os.setgroups([])
    os.setresgid(*[given["uid"]] * 3)
    os.setresuid(*[given["uid"]] * 3)
    chance = random.Random(0)
    steps = [(_STEPS[name], *words) for name, *words in given["steps"]]
    pauses = given["most_pause_us"] * 1_000
    rounds = succeeded = 0
    while not ended and os.getppid() == parent:
        for step, one, other in steps:
            try:
                step(one, other)
                succeeded += 1
            except OSError:
                pass  # another step, or the attacked program, has changed the name before
            pause = chance.randint(0, pauses)
            until = time.perf_counter_ns() + pause
            if pause > _COARSE_NS:
                time.sleep((pause - _COARSE_NS) / 1e9)
            while time.perf_counter_ns() < until:
                pass
        rounds += 1
        if rounds == 1:
            sys.stdout.write("ready\n")
            sys.stdout.flush()
    sys.stdout.write(json.dumps([rounds, succeeded]))


if __name__ == "__main__":
    main()
