"""`Client`: fetches, scans, looks up and reads the status, in a program as on the command line.

`Client` uses no terminal and does not handle signals. Each outcome that `Client` yields is a typed
value, and was already recorded, logged and acted upon. `docs/api.md` has examples of programs.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from hashclient.core.errors import ExitCode, StateError, UsageError
from hashclient.session import Session
from hashclient.system.text import printable

if TYPE_CHECKING:
    from hashclient.alerts.alert import Noticed
    from hashclient.alerts.outbox import Attempt
    from hashclient.core.errors import HashclientError
    from hashclient.core.kinds import Verdict
    from hashclient.core.match import Match
    from hashclient.daemon.program import ContentChecker
    from hashclient.fetch.build import Progress as FetchProgress
    from hashclient.fetch.notices import FetchedNotices
    from hashclient.fetch.switch import Fetched
    from hashclient.index.open_lists import OpenLists
    from hashclient.lists.importers.importfile import Reading
    from hashclient.scan.check.streaming import Stream
    from hashclient.scan.objects.objects import Objects
    from hashclient.scan.run.pipeline import FrontEnd, Run, Scan
    from hashclient.scan.sources.interface import Source
    from hashclient.scan.values.options import ScanOptions
    from hashclient.status.status import Status

__all__ = ["Client"]


class Client:
    """Uses a state directory for a program.

    Several clients may be used at once, in one or several processes: scans take no lock, and a
    fetch fails while another fetch is running, unless it may wait.
    """

    def __init__(self, state: Session | str | os.PathLike[str]) -> None:
        """Use a session, or a state directory with its own `config.toml`, as with `--state-dir`.

        Raises:
            ConfigError: the configuration is wrong.
        """
        self.session = state if isinstance(state, Session) else Session.of(Path(state))

    def fetch(
        self,
        *only: str,
        provider: str | None = None,
        copy: str | os.PathLike[str] | None = None,
        rebuild: bool = False,
        accept_churn: bool = False,
        wait_s: float = 0.0,
        progress: FetchProgress | None = None,
        on_failure: Callable[[HashclientError], None] = lambda _: None,
        on_wait: Callable[[], None] = lambda: None,
        on_notices: Callable[[FetchedNotices], None] | None = None,
    ) -> Iterator[Fetched]:
        """Fetch all lists, or the lists named in `only`; yield the result for each list.

        A list that is refused is not changed, and its result has an `error`. With a `copy` (a
        bundle or a directory), no network is used. `rebuild`: build the lists again from the
        provider's signed files. `accept_churn`: accept a change that the configured `max_churn`
        refuses. `progress` is called with the name of a list, the number of downloaded bytes and
        the number of all bytes. If another fetch is running in the state directory, this fetch
        waits up to `wait_s` seconds; `on_wait` is called when the wait begins. `on_notices` is
        called for each provider that has notices; without `on_notices`, `on_failure` is called with
        the errors of refused notices.

        Raises:
            LockedError: another fetch takes longer than `wait_s` seconds.
            HashclientError: the fetch from a provider failed; all other providers were tried first.
                If several providers fail, the error with the highest exit code is raised;
                `on_failure` is called with the other errors, and with errors of an address if
                another address succeeded.
            UsageError: no provider offers a list in `only`.
        """
        from hashclient.client.upkeep import tidy
        from hashclient.fetch.fetcher import How
        from hashclient.fetch.providers import fetch_all

        def report_failure(fetched: FetchedNotices) -> None:
            if fetched.error is not None:
                on_failure(fetched.error)

        tidy(self.session, on_failure)
        how = How(
            rebuild=rebuild,
            accept_churn=accept_churn,
            progress=progress or (lambda *_: None),
            on_failure=on_failure,
            on_notices=on_notices or report_failure,
        )
        place = None if copy is None else Path(copy)
        for fetched in fetch_all(
            self.session, only, provider, how, copy=place, wait_s=wait_s, on_wait=on_wait
        ):
            yield self._excepting(fetched) if fetched.has_exceptions else fetched

    def _excepting(self, fetched: Fetched) -> Fetched:
        """Except open matches that new exceptions cover, before a policy acts on the matches."""
        import msgspec

        from hashclient.decisions.exceptions import Exceptions
        from hashclient.scan.run.release import except_open

        try:
            except_open(self.session, Exceptions.of(self.session, self.session.open_lists()).rule)
        except StateError as error:
            return msgspec.structs.replace(fetched, problem=error)
        return fetched

    def scan(
        self,
        *paths: str | os.PathLike[str],
        options: ScanOptions | None = None,
        sources: Sequence[Source] = (),
        stream: Stream | None = None,
        objects: Objects | None = None,
        lists: OpenLists | None = None,
        front: FrontEnd | None = None,
    ) -> Scan:
        """Check files and trees; return the run, which works while the caller iterates over it.

        `paths` are files and trees, and URIs of objects in buckets. Files are checked first, then
        the inputs of `sources`, then the objects; `objects` may list objects in other ways;
        `stream` is read once, before all other inputs. `options`: how files are checked, and how
        matches are acted upon. `lists`: the lists to compare with, by default all lists that should
        be on this machine.

        Raises:
            UsageError: nothing is given to check, no file can have a given path, or options
                contradict each other.
            StateError: no list can be used.
            ConfigError: the seal key is wrong, or a recipient is wrong and files should be
                isolated.
        """
        from hashclient.scan.run.start import Inputs, start_scan
        from hashclient.scan.values.options import ScanOptions

        return start_scan(
            self.session,
            Inputs([*map(_path_of, paths)], sources, stream, objects),
            options or ScanOptions(),
            lists,
            front,
        )

    def checker(
        self,
        *,
        actions: bool = True,
        exceptions: bool = True,
        members: bool = True,
        spool_bytes: int | None = None,
    ) -> ContentChecker:
        """Return a checker for content that a program receives; the caller must close it.

        Open one checker in each process, after the process was forked. `actions`: whether the
        policy is applied to matches. `exceptions`, `members`: the same as the options of `scan`.
        `spool_bytes`: the disk space for streams that may be containers, for all threads together;
        by default as much as `serve` uses.

        Raises:
            StateError: no list can be used.
            ConfigError: the seal key is missing or malformed, or the policy is wrong.
        """
        from hashclient.daemon.program import SPOOL_BYTES, ContentChecker

        return ContentChecker(
            self.session,
            actions=actions,
            exceptions=exceptions,
            members=members,
            spool_bytes=SPOOL_BYTES if spool_bytes is None else spool_bytes,
        )

    def lookup(
        self,
        *digests: str,
        files: Sequence[str | os.PathLike[str]] = (),
        stdin: BinaryIO | None = None,
        accept_gaps: bool = False,
        show_clean: bool = False,
        exceptions: bool = True,
        lists: OpenLists | None = None,
        front: FrontEnd | None = None,
        reading: Reading | None = None,
    ) -> Run:
        """Check `digests`, in hexadecimal, and the digests in `files`; return the run.

        The name `-` in `files` stands for `stdin`, if `stdin` is given. `accept_gaps`: inputs that
        cannot be decided without digests of other kinds are clean instead of unread. `show_clean`:
        yield clean inputs, which otherwise are only counted. `exceptions`: the same as the option
        of `scan`. `reading`: which rows of files are used, and what their columns are called.

        Raises:
            UsageError: no digest and no file is given. The error of an unreadable file is raised at
                the end.
            StateError: no list can be used.
            ConfigError: the seal key is missing or malformed.
        """
        from hashclient.core.verdict import Summary
        from hashclient.decisions.interface import as_it_is
        from hashclient.scan.run.lookup import batches_of, lookup
        from hashclient.scan.run.pipeline import FrontEnd, Run, exceptions_of
        from hashclient.scan.run.recorder import RunRecord

        if not digests and not files:
            raise UsageError("nothing to look up", hint="give digests, or a file of them")
        front = front or FrontEnd()
        observer = front.observer
        names = [os.fspath(path) for path in files]
        lists = lists or self.session.open_lists()
        summary = Summary(lists=lists.states, missing=lists.missing, gaps_accepted=accept_gaps)
        batches = batches_of(digests, names, stdin, observer.failed, reading)
        key_id = lists.sealer.key_id
        rule = as_it_is
        if exceptions:
            rule = exceptions_of(self.session, lists, summary, observer).rule
        return Run(
            lookup(batches, lists, summary, keep_clean=show_clean, rule=rule),
            RunRecord(
                *(self.session, "lookup", summary, key_id),
                on_failure=observer.failed,
                lists=lists,
            ),
            summary,
            arguments=[f"{len(digests)} digests", *names],
            front=front,
        )

    def to_review(self) -> list[Match]:
        """Return the matches that wait for a review, if `after` in [report] requires reviews.

        Raises:
            StateError: the record of matches cannot be read.
        """
        from hashclient.decisions.review import ReviewPolicy
        from hashclient.matches.store import Matches

        with Matches(self.session.settings.state_dir, create=False) as record:
            waiting = ReviewPolicy(self.session.settings.config.report).waiting(record)
            return [record.get(match_id) for match_id in waiting]

    def review(
        self, *match_ids: str, verdict: Verdict, reason: str, text: str, viewed: bool = False
    ) -> list[tuple[Match, Verdict | None]]:
        """Record the operator's verdict on matches; return each match with the decision about it.

        `reason`: a word in `REVIEW_REASONS`. `text`: a sentence for the audit log. `viewed`:
        whether the operator has viewed the content outside this program. A decision of None means
        that another person has to review the match as well.

        Raises:
            UsageError: no match has one of the ids, or the reason does not fit the verdict; nothing
                is recorded.
            AuditError, StateError: the log or the record of matches cannot be written.
        """
        from hashclient.decisions.review import Review, review
        from hashclient.matches.store import Matches

        made = Review.of(verdict, f"{reason}: {text}", viewed=viewed)
        with Matches(self.session.settings.state_dir, create=False) as record:
            return [*review(self.session, record, match_ids, made)]

    def add_facts(
        self,
        match_id: str,
        *,
        account: str | None = None,
        address: str | None = None,
        uploaded: datetime | None = None,
        url: str | None = None,
        message_id: str | None = None,
    ) -> None:
        """Store facts about the upload of a match's file for reports; replace earlier facts.

        These facts are encrypted immediately, for `recipients` of [quarantine] and of all packages.
        `address`: the IP address from which the file was uploaded. `uploaded`: when the file was
        uploaded, with a time zone.

        Raises:
            UsageError: no match has this id, or a fact has a wrong form.
            ConfigError: no key is configured for encrypting the facts.
            AuditError, StateError: the facts cannot be logged or written.
        """
        from hashclient.matches.store import Matches
        from hashclient.reporting.facts import keep_facts, parse_facts

        given = {
            "account": account,
            "address": address,
            "uploaded": uploaded,
            "url": url,
            "message_id": message_id,
        }
        with Matches(self.session.settings.state_dir, create=False) as record:
            keep_facts(self.session, record, match_id, parse_facts(given))

    def alert(
        self,
        *,
        exit_code: int = ExitCode.OK,
        at_once: bool = False,
        patient: bool = False,
    ) -> list[Attempt]:
        """Send the alerts that are due; return the attempts.

        If [alerts] is not configured, nothing is done.

        `exit_code`: the exit code of the previous run; if it is 8 or 9, the state directory is
        checked for damage immediately. `at_once`: send all waiting alerts, even if they are not
        due. `patient`: give receivers more time than at the end of a run.

        Raises:
            StateError: the outbox cannot be read or written, or another command has locked it.
        """
        from hashclient.alerts.alert import Kind, noticed
        from hashclient.alerts.noticing import LOG, STATE
        from hashclient.alerts.outbox import Outbox
        from hashclient.status.alarms import alarms

        def look() -> list[Noticed]:
            from hashclient.status.status import read_status

            session = self.session
            try:
                status = read_status(session.settings, session.environ, session.now())
            except StateError:
                return [noticed(Kind.DAMAGED, STATE)]
            return [*alarms(status)]

        return Outbox(self.session).send(
            look,
            also=[noticed(Kind.DAMAGED, LOG)] if exit_code == ExitCode.AUDIT else [],
            look_now=exit_code == ExitCode.STATE,
            at_once=at_once,
            patient=patient,
        )

    def status(self, *, verify: bool = False) -> Status:
        """Return the status of all parts of the state directory, without fetching.

        With `verify`, every byte of the indexes is read and compared with its digest, and the whole
        record of matches is read.

        Raises:
            ConfigError: a rule of the policy names an unknown list.
        """
        from hashclient.decisions.policy import check_policy
        from hashclient.status.status import read_status

        session = self.session
        check_policy(session.settings)
        return read_status(session.settings, session.environ, session.now(), verify=verify)


def _path_of(given: str | os.PathLike[str]) -> str:
    """Return a path as a text.

    Raises:
        UsageError: no file can have this path.
    """
    path = os.fspath(given)
    try:
        is_possible = b"\0" not in os.fsencode(path)
    except UnicodeEncodeError:  # a lone surrogate
        is_possible = False
    if not is_possible:
        raise UsageError(f"no file can have this path: {printable(path)}", hint="leave it out")
    return path
