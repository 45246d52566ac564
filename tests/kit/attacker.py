"""Another user of the same machine, who exchanges files while the program works as root.

    with open_ground() as ground:
        victim = Victim(ground / "closed" / "secret", b"listed")
        tree = give_tree(ground / "tree", {"d/f": b"listed"})
        ...
        with attacking(exchange(tree / "d", tree / "link")) as attack:
            for _ in range(count_of(200)): ...
        assert attack.succeeded and victim.is_untouched()

Root makes all files and gives them to the attacker, so tests with an attacker need the mark
`needs_root`.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.kit.tree import write_tree

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can be attacked by others")

#: The user and group of the attacker: the account `nobody`, which owns no files elsewhere.
ATTACKER = 65534

_PROGRAM = Path(__file__).with_name("attack_loop.py")

#: A function of `attack_loop`, and its two arguments.
Step = tuple[str, str, str]


def exchange(one: Path, other: Path) -> Step:
    """Exchange two names in one step; each may be a file, a directory or a link."""
    return "exchange", str(one), str(other)


def rename(old: Path, new: Path) -> Step:
    """Rename; a file with the new name is replaced."""
    return "rename", str(old), str(new)


def link(name: Path, target: Path) -> Step:
    """Replace a name by a symbolic link."""
    return "link", str(name), str(target)


def hard_link(name: Path, target: Path) -> Step:
    """Replace a name by a hard link, if the system allows this user to make it."""
    return "hard_link", str(name), str(target)


def write(name: Path, text: str) -> Step:
    """Replace a name by a file."""
    return "write", str(name), text


def make_directory(name: Path) -> Step:
    """Make a directory."""
    return "mkdir", str(name), ""


def make_fifo(name: Path) -> Step:
    """Make a named pipe."""
    return "mkfifo", str(name), ""


def make_socket(name: Path) -> Step:
    """Make a socket on which nobody listens."""
    return "socket", str(name), ""


def remove(name: Path) -> Step:
    """Remove a file."""
    return "remove", str(name), ""


def remove_directory(name: Path) -> Step:
    """Remove an empty directory."""
    return "rmdir", str(name), ""


@dataclass(slots=True)
class Attack:
    """A running attack; the numbers are set after its block.

    `succeeded`: the number of steps that the system allowed.
    """

    rounds: int = 0
    succeeded: int = 0


@contextlib.contextmanager
def attacking(*steps: Step, uid: int = ATTACKER, most_pause_us: int = 0) -> Iterator[Attack]:
    """Repeat `steps` as another user while the block runs; it begins after the first round.

    After each step the attacker waits for a time between zero and `most_pause_us`: a different time
    after each step, but the same times in each run. A step that fails is skipped.
    """
    given = {"uid": uid, "steps": steps, "most_pause_us": most_pause_us}
    command = [sys.executable, "-I", "-S", str(_PROGRAM), json.dumps(given)]
    attack = Attack()
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            yield attack
        finally:
            process.terminate()
            last = process.stdout.read() if process.stdout is not None else ""
        attack.rounds, attack.succeeded = json.loads(last)


def attack_once(*steps: Step, uid: int = ATTACKER) -> None:
    """Do `steps` once as another user, for tests that attack between two chosen calls.

    Raises:
        AssertionError: a step failed.
    """
    program = (
        f"import sys; sys.path.insert(0, {str(_PROGRAM.parent)!r})\n"
        "import attack_loop, json, os\n"
        "given = json.loads(sys.argv[1])\n"
        "os.setgroups([]); os.setresgid(*[given['uid']] * 3); os.setresuid(*[given['uid']] * 3)\n"
        "for name, *words in given['steps']: attack_loop._STEPS[name](*words)\n"
    )
    given = json.dumps({"uid": uid, "steps": steps})
    command = [sys.executable, "-I", "-S", "-B", "-c", program, given]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@contextlib.contextmanager
def open_ground() -> Iterator[Path]:
    """Make a directory of root that every user can reach; pytest's directories are closed."""
    ground = Path(tempfile.mkdtemp(prefix="hashclient-ground-", dir="/tmp"))
    try:
        ground.chmod(0o755)
        yield ground
    finally:
        shutil.rmtree(ground)


def give_tree(directory: Path, files: Mapping[str, bytes], *, uid: int = ATTACKER) -> Path:
    """Write files by their paths below `directory`, and give all of them to another user."""
    write_tree(directory, files)
    for path in (directory, *directory.rglob("*")):
        os.chown(path, uid, uid, follow_symlinks=False)
    return directory


class Victim:
    """A file of root in a closed directory, which nobody else may reach, read or change."""

    def __init__(self, path: Path, content: bytes) -> None:
        """Make the file with mode 0600, and its directory with 0700 if it does not exist."""
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.write_bytes(content)
        path.chmod(0o600)
        self.path = path
        self.look()

    def look(self) -> None:
        """Note the present state of the file as untouched."""
        self._was = self._state()

    def _state(self) -> tuple[object, ...]:
        status = self.path.lstat()
        names = ("st_dev", "st_ino", "st_mode", "st_uid", "st_gid", "st_nlink", "st_mtime_ns")
        others = sorted(path.name for path in self.path.parent.iterdir())
        return self.path.read_bytes(), *(getattr(status, name) for name in names), *others

    def is_untouched(self) -> bool:
        """Return whether the file is unchanged under its name, and no new file is beside it."""
        return self.path.exists() and self._state() == self._was
