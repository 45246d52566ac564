"""Checks the files and trees whose paths clients send.

The checker of the scan reads the files in threads, one piece at a time. The file or directory at a
path is opened only once. All files below a directory are opened by the descriptor of this
directory, so other users cannot exchange a symbolic link or a directory of the path. The path in
the record of matches is the path without symbolic links that the kernel returns for the descriptor.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import stat
from array import array
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType

import msgspec

from hashclient.core.kinds import Kind
from hashclient.core.model import Outcome
from hashclient.daemon.checks import OK, Checks, answer, unknown
from hashclient.daemon.client import Client, Form
from hashclient.daemon.lists import InUse
from hashclient.daemon.openers import Openers
from hashclient.daemon.options import NoVerdict
from hashclient.daemon.protocol import Command
from hashclient.daemon.turns import Job, begun
from hashclient.daemon.uploads import RECORDED, worst
from hashclient.scan.check.checker import Checker
from hashclient.scan.check.members import Members
from hashclient.scan.executors.here import Inline
from hashclient.scan.sources.frontier import kind_of
from hashclient.scan.sources.trees import Trees
from hashclient.scan.values.options import ScanOptions
from hashclient.scan.values.work import CHANGED, Group, Result, Task, reason_of
from hashclient.system.beneath import Directory, identity_of
from hashclient.system.rights import acting_as

_OPTIONS = ScanOptions((), one_file_system=False, follow_symlinks=False)


class Named:
    """The file or tree at a path that a client has sent."""

    def __init__(self, path: str) -> None:
        """Store the path; nothing is opened."""
        self.given = self._real = path
        self._fd = -1
        self._trees: Trees | None = None

    def open(self) -> None:
        """Open the file or directory at the path; symbolic links in the path are followed.

        1. The file is opened by its path.
        2. The kernel returns a path without symbolic links for the open file.
        3. The status of the file at the path without symbolic links is read, and must be that of
           the open file. The comparison prevents a client from using a link in /proc to reach a
           file that only this process has open.
        4. For a regular file, the descriptor of its directory is kept in place of the descriptor of
           the file.

        Raises:
            OSError: the path cannot be opened, or leads to another file now.
        """
        self._fd = _open(self.given)
        self._status = os.fstat(self._fd)
        real = os.readlink(f"/proc/self/fd/{self._fd}")  # noqa: PTH115 - any bytes
        directory, _, self._name = real.rpartition("/")
        with Directory.plain(directory or "/") as parent:
            status = parent.status(self._name or ".")
            if status is None or identity_of(status) != identity_of(self._status):
                raise OSError(errno.ENOENT, CHANGED)
            if stat.S_ISREG(self._status.st_mode):
                os.dup2(parent.fd, self._fd, inheritable=False)
        self._real = real

    def batches(self) -> Iterator[Task | Outcome]:
        """Yield tasks and outcomes, as the module `scan.sources.trees` does.

        The caller must check each task before it requests the next task. At the end, directories of
        other users are listed again, so that no file is missed that was moved meanwhile.
        """
        held = f"/proc/self/fd/{self._fd}"
        if stat.S_ISREG(self._status.st_mode):
            inodes = array("Q", [self._status.st_ino])
            yield [Group(held, [self._name], follow=False, inodes=inodes)]
        elif stat.S_ISDIR(self._status.st_mode):
            with contextlib.closing(Trees([held], _OPTIONS)) as self._trees:
                yield from self._trees.batches()
                yield from self._trees.again()
        else:
            yield Outcome(Kind.UNREAD, held, reason=kind_of(self._status.st_mode))

    def lose(self, inodes: Iterable[int]) -> None:
        """Store inodes of listed files that have disappeared; `batches` looks for these files."""
        if self._trees is not None:
            self._trees.lose(inodes)

    def real(self, outcome: Outcome) -> Outcome:
        """Return an outcome whose path is replaced by the path without symbolic links."""
        held = f"/proc/self/fd/{self._fd}"
        if stat.S_ISREG(self._status.st_mode):
            held = f"{held}/{self._name}"
        path = self._real.rstrip("/") + outcome.path.removeprefix(held)
        return msgspec.structs.replace(outcome, path=path or "/")

    def as_given(self, path: str) -> str:
        """Return `path`, which is below the path without symbolic links, as the client names it."""
        rest = path.removeprefix(self._real.rstrip("/")) if path != self._real else ""
        return self.given.rstrip("/") + rest if rest else self.given

    def close(self) -> None:
        """Close the file or directory."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def _open(path: str) -> int:
    try:
        # A directory is opened for reading, so that an automount is triggered.
        return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except NotADirectoryError:
        return os.open(path, os.O_PATH | os.O_CLOEXEC)
    except ValueError as error:  # a null byte, or a lone surrogate
        raise OSError(errno.EINVAL, "no file can have this name") from error


class _DroppedError(Exception):
    """The client has closed its connection, or the daemon is stopping."""


def results_at(
    lists: InUse,
    named: Named,
    on_bytes: Callable[[int], None] | None = None,
    members: Members | None = None,
) -> Generator[Result, None, None]:
    """Check the file or tree at a path; yield results with the outcomes that are not clean.

    Symbolic links below the path are not followed. Files that are not regular files are skipped; if
    the path itself names such a file, the outcome is unread. `on_bytes` is called repeatedly while
    a file is read. `members` is the object that opens containers.
    """
    try:
        named.open()
    except OSError as error:
        yield Result(outcomes=[Outcome(Kind.UNREAD, named.given, reason=reason_of(error))])
        return
    checker = Checker(lists.judge, on_bytes=on_bytes, members=members)
    for item in Inline().run(named.batches(), lambda _: checker):
        result = Result(outcomes=[item]) if isinstance(item, Outcome) else item
        if isinstance(result, Result):
            named.lose(result.lost)
            not_clean = (o for o in result.outcomes if o.kind not in {Kind.CLEAN, Kind.SKIPPED})
            result.outcomes = [named.real(outcome) for outcome in not_clean]
            yield result


def ruled(
    outcomes: Sequence[Outcome], lists: InUse, openers: Openers | None, door: str | None
) -> list[Outcome]:
    """Apply the rules `accept` and the exceptions to outcomes; `door` names the client."""
    outcomes = [msgspec.structs.replace(outcome, door=door) for outcome in outcomes]
    if openers is not None:
        outcomes = openers.accepted(outcomes)
    return [lists.rule(outcome) for outcome in outcomes]


@begun
def check_path(checks: Checks, client: Client, command: Command, path: str, form: Form) -> Job:
    """Check the file or tree at a path, and send answers about all outcomes that are not clean."""
    lists, rule = checks.lists, checks.options.no_verdict

    def reply(
        lines: Sequence[str],
        found: Sequence[Outcome | None] = (),
        not_opened: Mapping[str, int] = MappingProxyType({}),
        *,
        last: bool = True,
    ) -> bool:
        for outcome in found:
            checks.count(outcome, lists)
        checks.counts.add_not_opened(not_opened)
        end = form[1].decode()
        client.answer(form, [line.replace(end, "_") for line in lines], last=last)
        return not last

    def on_bytes(_: int) -> None:
        if client.is_closed or checks.is_stopping:
            raise _DroppedError

    yield None
    try:
        rights = checks.rights_for(client.peer, path)
    except PermissionError as error:
        said = unknown("Path", str(error.strerror), rule)
        yield lambda: reply([f"{path}: {said}"])
        return
    is_clean, has_excepted = True, False
    with contextlib.ExitStack() as stack:
        named = stack.enter_context(contextlib.closing(Named(path)))
        members = None
        if checks.openers is not None:
            members = stack.enter_context(checks.openers.taken(lists, client))
        results = results_at(lists, named, on_bytes, members)
        stack.enter_context(contextlib.closing(results))
        while True:
            # The ids are set for each piece, because each piece may run in another thread.
            with acting_as(rights) as ourselves:
                if members is not None:
                    members.ourselves = ourselves
                result = next(results, None)
            if result is None:
                break
            checks.records.of_paths.leave(result.not_opened, lists)
            outcomes = ruled(result.outcomes, lists, checks.openers, client.peer.door)
            recorded = [o for o in outcomes if o.kind in RECORDED]
            if recorded:
                checks.records.of_paths.add(recorded, lists, each=client.peer.is_trusted)
            found = [o for o in recorded if o.kind is not Kind.EXCEPTED]
            others = [o for o in outcomes if o.kind not in RECORDED]
            has_excepted = has_excepted or len(found) < len(recorded)
            is_clean = is_clean and not (found or others)
            every = command is Command.ALLMATCHSCAN
            # Answers with matches are sent first, because a client may read only the first lines.
            lines = [
                f"{named.as_given(at)}: {text}"
                for at, text in _said(found + others, lists.doubt, rule, every=every)
            ]
            is_over = command is Command.SCAN and bool(found)
            if is_over:
                del lines[1:]
            yield functools.partial(reply, lines, outcomes, result.not_opened, last=is_over)
    lines = [f"{path}: {text}" for text in answer(None, lists.doubt, rule)] if is_clean else []
    yield functools.partial(reply, lines, [None] if is_clean and not has_excepted else [])


def _said(
    outcomes: Sequence[Outcome], doubt: str | None, rule: NoVerdict, *, every: bool
) -> Iterator[tuple[str, str]]:
    """Yield answers with the paths of files; an answer about a member has the path of its file."""
    by_path: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        by_path.setdefault(outcome.path, []).append(outcome)
    for path, of_file in by_path.items():
        chosen = of_file if every else [worst(of_file)]
        said = dict.fromkeys(
            text for outcome in chosen for text in answer(outcome, doubt, rule, every=every)
        )
        if len(said) > 1:
            said.pop(OK, None)
        yield from ((path, text) for text in said)
