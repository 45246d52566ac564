"""Trees of benign files."""

from __future__ import annotations

import contextlib
import os
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path


def write_tree(directory: Path, files: Mapping[str, bytes]) -> Path:
    """Write files by their paths below `directory`."""
    for name, data in files.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    directory.mkdir(exist_ok=True)
    return directory


@contextlib.contextmanager
def fast_directory() -> Iterator[Path]:
    """Make a directory for trees of many or very large files: in memory, if possible."""
    memory = Path("/dev/shm")
    usable = memory.is_dir() and os.access(memory, os.W_OK)
    directory = Path(tempfile.mkdtemp(prefix="hashclient-", dir=memory if usable else None))
    try:
        yield directory
    finally:
        # The tree may be deeper than Python's own function can remove.
        subprocess.run(["rm", "-rf", directory], check=True)


def make_deep_tree(directory: Path, depth: int) -> None:
    """Make a chain of `depth` directories called `dd`, each with an empty file `f`."""
    fd = os.open(directory, os.O_RDONLY)
    for _ in range(depth):
        os.mkdir("dd", dir_fd=fd)
        inner = os.open("dd", os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = inner
        os.close(os.open("f", os.O_CREAT, dir_fd=fd))
    os.close(fd)
