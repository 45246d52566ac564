"""What belongs together in one use of a state directory: settings, clock, operator, log and key.

A front end makes one `Session` and hands it on; whoever acts takes from it what used to be passed
one by one. Nothing but the version of the state is read or made before it is asked for.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from hashclient.config import Settings
from hashclient.core.model import Invocation
from hashclient.migrations.check import check_state
from hashclient.migrations.version import SEGMENTS
from hashclient.system.layout import MANIFEST_NAME
from hashclient.system.text import printable

if TYPE_CHECKING:
    from hashclient.audit.log import AuditLog
    from hashclient.index.blinding import Sealer
    from hashclient.index.open_lists import OpenLists


#: So many of the paths that a command was given are logged.
MAX_PATHS = 100


def utc_now() -> datetime:
    """Return the time; the clock of a session that is given none."""
    return datetime.now(UTC)


def current_operator() -> str:
    """Return who runs this, for the audit log: the user, and who became that user by sudo."""
    import pwd

    uid = os.getuid()
    try:
        name = pwd.getpwuid(uid).pw_name
    except KeyError:
        name = f"uid {uid}"
    # What sudo says is as good as the rights of who calls us: root can say anything.
    sudo = os.environ.get("SUDO_USER")
    return f"{name} (sudo: {printable(sudo)})" if sudo and uid == 0 else name


class Session:
    """One use of a state directory. `now` gives the time in UTC."""

    def __init__(
        self,
        settings: Settings,
        *,
        now: Callable[[], datetime] = utc_now,
        operator: str | None = None,
        environ: Mapping[str, str] | None = None,
    ) -> None:
        """Act for `operator`, by default who runs this process, with the process's `environ`.

        Raises:
            StateError: the state directory is of a newer version, or cannot be brought to today's.
        """
        self._version = check_state(settings.layout)
        self.settings = settings
        self.now = now
        self.environ = os.environ if environ is None else environ
        self._operator = operator

    @functools.cached_property
    def operator(self) -> str:
        """Who acts, in the words of the audit log."""
        return self._operator or current_operator()

    def invocation(self, paths: Sequence[str] = ()) -> Invocation:
        """Return where and by whom this runs, for `paths`, of which the first are kept."""
        try:
            directory = os.getcwd()  # noqa: PTH109 - any bytes
        except OSError:
            directory = None
        kept = tuple(paths[:MAX_PATHS])
        omitted = len(paths) - len(kept)
        return Invocation(os.uname().nodename, self.operator, directory, kept, omitted)

    @functools.cached_property
    def audit(self) -> AuditLog:
        """The audit log of the state directory."""
        from hashclient.audit.log import AuditLog

        most = round(self.settings.config.keep.audit_mib * (1 << 20))
        can_be_closed = most and self._version >= SEGMENTS
        return AuditLog(
            self.settings.layout.audit, clock=self.now, max_bytes=most if can_be_closed else None
        )

    def sealer(self, *, create: bool = False) -> Sealer:
        """Return the sealer under this machine's key; with `create`, the key is made if need be.

        Raises:
            ConfigError: the key is missing or malformed.
            StateError: it cannot be read or written.
        """
        from hashclient.index.blinding import load_sealer

        settings = self.settings
        return load_sealer(settings.state_dir, settings.seal_key_file, self.environ, create=create)

    def open_lists(self) -> OpenLists:
        """Open the lists that should be here, as they are now.

        Raises:
            StateError: none can be used.
            ConfigError: the seal key is missing or malformed.
        """
        from hashclient.index.open_lists import open_lists

        return open_lists(self.settings, self.environ, self.now())

    def list_folders(self) -> list[tuple[str, int, int]]:
        """Return what changes with a new generation, or of a list that has come or gone.

        It is cheap, so that whoever goes on for long can ask often.
        """
        found = []
        try:
            with os.scandir(self.settings.layout.lists) as folders:
                names = sorted(folder.path for folder in folders)
        except OSError:
            return []
        for path in names:
            try:
                status = os.stat(f"{path}/{MANIFEST_NAME}")  # noqa: PTH116 - often
                found.append((path, status.st_ino, status.st_mtime_ns))
            except OSError:
                found.append((path, 0, 0))
        return found
