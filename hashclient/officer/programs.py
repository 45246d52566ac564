"""Finds the programs that do what Python's library does not."""

from __future__ import annotations

import errno
import os
import shutil


def find_program(name: str) -> str:
    """Return the path of a program, by `PATH`.

    Entries that are not absolute are passed over: they lead to the current directory, where
    somebody's package may have been unpacked, with a program of this name beside it.

    Raises:
        FileNotFoundError: there is none.
    """
    folders = filter(os.path.isabs, os.get_exec_path())
    found = shutil.which(name, path=os.pathsep.join(folders))
    if found is None:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), name)
    return found
