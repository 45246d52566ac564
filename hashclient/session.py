"""The state directory that a command uses: its settings, clock, operator, audit log and key.

A front end makes one `Session`, and passes the session to all functions that need it. A session
first reads only the version of the state; all other parts are read or created when they are used.
"""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from hashclient.config.settings import Settings
from hashclient.core.errors import ConfigError
from hashclient.core.model import Invocation
from hashclient.core.staleness import present_time
from hashclient.migrations.migrate import check_state, writing
from hashclient.system.layout import MANIFEST_NAME
from hashclient.system.text import printable

if TYPE_CHECKING:
    from hashclient.audit.log import AuditLog
    from hashclient.index.blinding import Sealer
    from hashclient.index.open_lists import OpenLists


#: The largest number of a command's paths that are logged.
MAX_PATHS = 100


#: The file in which the kernel keeps the user who logged in, even if the process has changed its
#: user (`pam_loginuid(8)`).
_LOGIN = Path("/proc/self/loginuid")
_NO_LOGIN = (1 << 32) - 1


def current_operator() -> str:
    """Return who runs this process, for the audit log: the user, and who has become that user.

    If the kernel knows that another user has logged in, that user is named; if the user is root,
    the caller of `sudo` is named as well: `root (login: alice, sudo: alice)`.
    """
    uid, login = os.getuid(), _login_user()
    how = [] if login in (None, uid) else [f"login: {_name_of(login)}"]
    # SUDO_USER is in the environment of the caller, so root can set it to any name.
    if (sudo := os.environ.get("SUDO_USER")) and uid == 0:
        how.append(f"sudo: {printable(sudo)}")
    return f"{_name_of(uid)} ({', '.join(how)})" if how else _name_of(uid)


def _login_user() -> int | None:
    """Return the user who logged in; None for a service, or if the kernel does not know."""
    try:
        number = int(_LOGIN.read_text())
    except (OSError, ValueError):
        return None
    return None if number == _NO_LOGIN else number


def _name_of(uid: int) -> str:
    import pwd

    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"uid {uid}"


class Session:
    """The state directory as one front end uses it. `now` returns the time in UTC."""

    def __init__(
        self,
        settings: Settings,
        *,
        now: Callable[[], datetime] = present_time,
        operator: str | None = None,
        environ: Mapping[str, str] | None = None,
    ) -> None:
        """Act for `operator`, which is by default the user of this process.

        Raises:
            ConfigError: this process decodes the names of files as another encoding than UTF-8, so
                records would have wrong names.
            StateError: the version of the state is refused, or the state cannot be migrated to the
                present version.
        """
        if sys.getfilesystemencoding() != "utf-8":
            raise ConfigError(
                f"names of files are not UTF-8 here, but {sys.getfilesystemencoding()}",
                hint="start Python with `-X utf8`, or in another locale: LC_ALL=C.UTF-8",
            )
        check_state(settings.layout)
        self.settings = settings
        self.now = now
        self.environ = os.environ if environ is None else environ
        self._operator = operator

    @classmethod
    def of(cls, state_dir: Path) -> Session:
        """Return a session for a state directory with its own `config.toml`, as for `--state-dir`.

        Raises:
            ConfigError: the configuration is wrong.
            StateError: the state directory is refused, or cannot be migrated.
        """
        from hashclient.config.settings import resolve_settings

        return cls(
            resolve_settings(
                state_dir=state_dir, config_path=None, seal_key_file=None, environ=os.environ
            )
        )

    @functools.cached_property
    def operator(self) -> str:
        """The name of the operator in the audit log."""
        return self._operator or current_operator()

    @property
    def machine(self) -> str:
        """The name of this machine."""
        return os.uname().nodename

    def invocation(self, paths: Sequence[str] = ()) -> Invocation:
        """Return who runs the command, where, and for which `paths`.

        Only the first `MAX_PATHS` paths are logged.
        """
        try:
            directory = os.getcwd()  # noqa: PTH109 - the path may contain any bytes
        except OSError:
            directory = None
        kept = tuple(paths[:MAX_PATHS])
        omitted = len(paths) - len(kept)
        return Invocation(self.machine, self.operator, directory, kept, omitted)

    @functools.cached_property
    def audit(self) -> AuditLog:
        """The audit log of the state directory."""
        from hashclient.audit.log import AuditLog

        most = round(self.settings.config.keep.audit_mib * (1 << 20))
        return AuditLog(self.settings.layout.audit, clock=self.now, max_bytes=most or None)

    def writing(
        self, *, wait_s: float = 0.0, on_wait: Callable[[], None] = lambda: None
    ) -> AbstractContextManager[None]:
        """Lock the state directory for writing, as `migrations.migrate.writing` does."""
        return writing(self.settings.layout, wait_s=wait_s, on_wait=on_wait)

    def sealer(self, *, create: bool = False) -> Sealer:
        """Return the sealer with this machine's key; with `create`, create a missing key.

        Raises:
            ConfigError: the key is missing or malformed.
            StateError: the key cannot be read or written.
        """
        from hashclient.index.blinding import load_sealer

        settings = self.settings
        return load_sealer(settings.state_dir, settings.seal_key_file, self.environ, create=create)

    def open_lists(self) -> OpenLists:
        """Open the lists that should be on this machine, in their present generations.

        Raises:
            StateError: no list can be used.
            ConfigError: the seal key is missing or malformed.
        """
        from hashclient.index.open_lists import open_lists

        return open_lists(self.settings, self.environ, self.now())

    def list_folders(self) -> list[tuple[str, int, int]]:
        """Return a value that changes when a list has a new generation, is added or is removed.

        The call takes little time, so a long-running program can call it often.
        """
        found = []
        try:
            with os.scandir(self.settings.layout.lists) as folders:
                names = sorted(folder.path for folder in folders)
        except OSError:
            return []
        for path in names:
            try:
                status = os.stat(f"{path}/{MANIFEST_NAME}")  # noqa: PTH116 - called often
                found.append((path, status.st_ino, status.st_mtime_ns))
            except OSError:
                found.append((path, 0, 0))
        return found
