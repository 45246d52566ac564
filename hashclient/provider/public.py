"""The folders for a web server of another account: readable whatever the umask.

`public/` is made for all to read. Folders below it get the mode of `public/` itself: if it is
closed to all but a group, later folders are, too.
"""

from __future__ import annotations

import contextlib
import stat
from collections.abc import Iterator
from pathlib import Path

from hashclient.system.files import make_public_dir, state_error

#: Anybody may read published files; a web server under another user has to.
PUBLIC_MODE = 0o644
PUBLIC_DIR_MODE = 0o755


def make_open_dir(path: Path) -> None:
    """Create `path`, and parents it lacks, for all to read, whatever the umask.

    Raises:
        StateError: it cannot be made.
    """
    missing = [folder for folder in (path, *path.parents) if not folder.is_dir()]
    make_public_dir(path)
    for folder in missing:
        _set_mode(folder, PUBLIC_DIR_MODE)


def make_public_root(public: Path) -> None:
    """Create `public/` of a new repository; a killed command may have made it before.

    Raises:
        StateError: it cannot be made.
    """
    make_public_dir(public)
    _set_mode(public, PUBLIC_DIR_MODE)


def make_folder_below(public: Path, path: Path) -> None:
    """Create the folder `path` below `public`; it and its parents get the mode of `public`.

    A command that was killed, or one of another version, may have left them closed.

    Raises:
        StateError: it cannot be made, or its mode not be set.
    """
    make_public_dir(path)
    try:
        mode = stat.S_IMODE(public.stat().st_mode)
        for folder in (path, *path.parents):
            if folder == public or public not in folder.parents:
                break
            if stat.S_IMODE(folder.stat().st_mode) != mode:
                # An account that may write to the folder of another one may not change its mode.
                with contextlib.suppress(PermissionError):
                    folder.chmod(mode)
    except OSError as error:
        raise state_error("cannot open to the web server", path, error) from error


def closed_folders(directory: Path, public: Path) -> Iterator[Path]:
    """Yield folders that keep other accounts from the published files, those above it first.

    Raises:
        StateError: one cannot be looked at.
    """
    try:
        whole = directory.resolve()
        for folder in (*reversed(whole.parents), whole):
            if not folder.stat().st_mode & 0o011:
                yield folder
        for folder in (public, *sorted(path for path in public.rglob("*") if path.is_dir())):
            mode = folder.stat().st_mode
            if not (mode & 0o050 == 0o050 or mode & 0o005 == 0o005):
                yield folder
    except OSError as error:
        raise state_error("cannot look at", public, error) from error


def _set_mode(folder: Path, mode: int) -> None:
    try:
        folder.chmod(mode)
    except OSError as error:
        raise state_error("cannot open to the web server", folder, error) from error
