"""The directory of a repository: its lock, its log, and the published roles.

A web server publishes `public/`. The directory `keys/` stays private. The provider hands
`root.json` to the clients itself, not over the web server. `hashclient.provider.repository` makes
the changes that people ask for; each change is made under the lock.

The log in `log/` has the format of a client's audit log, which `docs/audit-log.md` describes. A
change is recorded durably before clients can see the change, so every published change is in the
log. The field `timestamp` of a record is the version of the role timestamp that the change
publishes. If the change fails, a record `change-failed` follows. If the command is killed before it
publishes the change, the record of the next change has the same version of the timestamp.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

from hashclient.audit.log import AuditLog, Event
from hashclient.core.errors import HashclientError, StateError, UsageError
from hashclient.provider.drafting import Change, write_draft
from hashclient.provider.keyfiles import Passphrases
from hashclient.provider.keys import Clock, Validity
from hashclient.provider.keystore import KeyStore
from hashclient.provider.listfiles import ListFiles
from hashclient.provider.public import closed_folders, own_hints, read_public
from hashclient.provider.results import ListStatus, RoleStatus, Status
from hashclient.provider.roles import Roles
from hashclient.system.files import sweep_temporary, writer_lock
from hashclient.system.text import printable
from hashclient.trust.additions import NOTICES

_DEFAULT_VALIDITY = Validity()
#: A role that has less than this share of its validity left is reported as expiring soon. If all
#: keys are on this machine, a daily `renew` keeps every role above this share.
SOON = 1 / 4


class RepositoryDirectory:
    """The directory of a repository; the repository need not exist yet."""

    def __init__(
        self,
        directory: Path,
        *,
        clock: Clock,
        validity: Validity = _DEFAULT_VALIDITY,
        operator: str | None = None,
        passphrases: Passphrases | None = None,
    ) -> None:
        """Store the path and the arguments; `Repository.create` makes the repository.

        `operator` is the name of the person that records in the log name; `passphrases` decrypt the
        keys.
        """
        self.directory = directory
        self.public = directory / "public"
        self.root_file = directory / "root.json"
        self.clients_file = directory / "clients.json"
        self.feedback_file = directory / "feedback.json"
        #: The directory that has a folder for each list that republishes another provider's list.
        self.sources = directory / "sources"
        self.clock = clock
        self._validity = validity
        self._metadata = self.public / "metadata"
        self.files = ListFiles(self.public / "targets", clock)
        self._keys = KeyStore(directory / "keys", passphrases or Passphrases())
        self.log = ChangeLog(directory / "log", clock, operator)

    def require(self) -> None:
        """Check that the repository exists.

        Raises:
            StateError: the directory is not a repository.
        """
        if not self._timestamp(self.directory).exists():
            above = self._above()
            raise StateError(
                f"not a provider's repository: {printable(self.directory)}",
                hint="`hashclient provider init` makes one"
                if above is None
                else f"the repository that it is in: {printable(above)}",
            )

    def refuse_inside(self) -> None:
        """Refuse a new repository inside another repository, which could publish the new keys.

        Raises:
            UsageError: the new repository would be inside another repository.
        """
        if (above := self._above()) is not None:
            raise UsageError(
                f"in a repository already: {printable(self.directory)} is in {printable(above)}",
                hint="a repository has a directory of its own",
            )

    def _above(self) -> Path | None:
        """Return the repository that contains this directory; None if no repository does."""
        for folder in self.directory.resolve().parents:
            with contextlib.suppress(OSError):
                if self._timestamp(folder).exists():
                    return folder
        return None

    @staticmethod
    def _timestamp(directory: Path) -> Path:
        """Return the file that shows that `directory` is a repository."""
        return directory / "public" / "metadata" / "timestamp.json"

    def load(self) -> Roles:
        """Return the published roles with their keys, ready for a change.

        Raises:
            StateError: the repository does not exist or is corrupt.
        """
        self.require()
        with own_hints("cannot read", self.directory):
            roles = Roles.load(self._metadata, self._keys, self.clock, self._validity)
        # The record `repository-changed` is written if a change does not announce a more specific
        # record.
        self.announce(roles, "repository-changed")
        return roles

    def status(self) -> Status:
        """Return the published roles and lists.

        Raises:
            StateError: the repository does not exist or is corrupt.
        """
        roles = self.load()
        role_states = []
        for name in roles.names():
            signed, (keyids, threshold) = roles.metadata(name).signed, roles.key_policy(name)
            role_states.append(
                RoleStatus(name, signed.version, signed.expires, len(keyids), threshold)
            )
        indexes = [self.files.current(roles, name) for name in sorted(roles.lists)]
        return Status(
            hashlib.sha256(read_public(self.root_file)).hexdigest(),
            tuple(role_states),
            tuple(
                ListStatus(i.list, i.generation, i.published_at, i.entries, len(i.segments))
                for i in indexes
            ),
            tuple(sorted(roles.ended)),
        )

    def expiring(self) -> list[tuple[str, datetime, str | None]]:
        """Return the roles that expire soon or have expired, each with its expiry and the advice.

        The advice says how the role can be signed. The advice is None if the keys of the role are
        on this machine, because `renew` is enough to sign such a role.

        Raises:
            StateError: see `status`.
        """
        roles = self.load()
        found = roles.expiry.with_less_than(SOON, roles.ends())
        return [(role, at, roles.wanting(role)) for role, at in found]

    def closed(self) -> list[Path]:
        """Return the folders that a web server under another user account cannot enter.

        Raises:
            StateError: the status of a folder cannot be read.
        """
        return list(closed_folders(self.directory, self.public))

    @contextlib.contextmanager
    def changing_roles(self) -> Iterator[Roles]:
        """Yield the published roles for a change, while the repository is locked.

        Raises:
            LockedError: another process has locked the repository.
            StateError: the repository does not exist or is corrupt, or the disk fails.
        """
        self.require()
        with self.changing():
            yield self.load()

    @contextlib.contextmanager
    def changing(self) -> Iterator[None]:
        """Lock the repository for a change, and remove files that a killed change has left.

        Raises:
            LockedError: another process has locked the repository.
            StateError: the disk fails.
        """
        busy = f"another process is changing {printable(self.directory)}"
        lock = writer_lock(self.directory / "lock", busy=busy, hint="wait until it has finished")
        with own_hints("cannot change", self.directory), lock:
            written = [self.directory, self._metadata, self._keys.directory]
            written += [self.files.directory / NOTICES, *self.files.directory.glob("lists/*")]
            written += self.sources.glob("*")
            for folder in written:
                sweep_temporary(folder)
            self._keys.made.clear()
            self._keys.passphrase = None
            self.log.begin()
            try:
                yield
            except BaseException:
                self.log.failed()
                self._discard_keys()
                raise

    def _discard_keys(self) -> None:
        """Remove the keys that a failed command has made, except keys that are published.

        The published metadata decide which keys are kept, because a disk may fail after the new
        metadata were published.
        """
        if not self._keys.made:
            return
        published: set[str] = set()
        if (self._metadata / "timestamp.json").exists():
            try:
                published = self.load().key_files()
            except StateError:
                return  # keep all keys, because nobody knows which keys are published
        self._keys.discard(self._keys.made - published)

    def announce(self, roles: Roles, event: str, **data: Any) -> None:
        """Set the log record that is written just before clients can see a change of `roles`."""

        def with_versions() -> dict[str, Any]:
            root, timestamp = roles.root.signed, roles.timestamp.signed
            return {**data, "root": root.version, "timestamp": timestamp.version}

        roles.announce = lambda: self.log.announce(event, with_versions)

    def put(
        self,
        roles: Roles,
        changed: set[str],
        draft: Path | None,
        event: str,
        data: dict[str, Any],
        change: Change | None = None,
    ) -> None:
        """Write a `change` of the roles `changed`, record the change as `event`, and publish it.

        If `draft` is given, the next versions are written into the directory `draft` instead of
        being published, and the log records the draft.

        Raises:
            UsageError: the draft cannot be written.
            StateError: see `Repository.publish`.
        """
        if draft is not None:
            self.log.announce("draft-made", lambda: {"roles": sorted(changed)})
            by = self.log.operator
            write_draft(draft, roles, changed, change, clock=self.clock, operator=by)
            return
        if change is not None:
            change.write(self.files, roles)
        self.announce(roles, event, **data)
        roles.commit(changed)


#: A log file that has reached this size in bytes is closed, and the log continues in a new file.
MAX_FILE_BYTES = 64 << 20


class ChangeLog:
    """The log of one repository. A caller must lock the repository before recording an event."""

    def __init__(
        self, directory: Path, clock: Callable[[], datetime], operator: str | None
    ) -> None:
        """Record the changes by `operator` in `directory`; make the directory if it is missing."""
        self.directory = directory
        self.operator = operator
        self._log = AuditLog(directory, clock=clock, max_bytes=MAX_FILE_BYTES)
        self._announced: str | None = None

    def record(self, event: str, **data: Any) -> None:
        """Record an event durably.

        Raises:
            AuditError: the event cannot be recorded.
        """
        self._log.append([Event(event, {"operator": self.operator, **data})], durable=True)

    def begin(self) -> None:
        """Begin a command, which has not announced a change yet."""
        self._announced = None

    def announce(self, event: str, data: Callable[[], dict[str, Any]]) -> None:
        """Call `data`, and record its result, unless this command has recorded a change already."""
        if self._announced is None:
            self.record(event, **data())
            self._announced = event

    def failed(self) -> None:
        """Record, if possible, that the announced change has failed."""
        if self._announced is not None:
            with contextlib.suppress(HashclientError):
                self.record("change-failed", change=self._announced)
            self._announced = None
