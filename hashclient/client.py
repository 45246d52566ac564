"""`Client`: fetch, scan, look up, and ask for the state, from a program as from the command line.

It uses no terminal and handles no signals. Each outcome it yields is typed, and already recorded,
logged and acted upon. `docs/api.md` has examples.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from hashclient.errors import UsageError
from hashclient.session import Session

if TYPE_CHECKING:
    from hashclient.core.kinds import Verdict
    from hashclient.core.match import Match
    from hashclient.core.verdict import Summary
    from hashclient.decisions.exceptions import Exceptions
    from hashclient.errors import HashclientError, StateError
    from hashclient.fetch.build import Progress as FetchProgress
    from hashclient.fetch.notices import FetchedNotices
    from hashclient.fetch.switch import Fetched
    from hashclient.index.open_lists import OpenLists
    from hashclient.lists.importers.reading import Reading
    from hashclient.scan.executors.interface import Executor
    from hashclient.scan.objects.objects import Objects
    from hashclient.scan.pipeline import FrontEnd, Run, Scan
    from hashclient.scan.sources.interface import Source
    from hashclient.scan.streaming import Stream
    from hashclient.status.status import Status

__all__ = ["Client"]


class Client:
    """One use of a state directory.

    Several may be used at once, in one process or many: scans take no lock, and a fetch fails while
    another one runs, unless it is asked to wait.
    """

    def __init__(self, state: Session | str | os.PathLike[str]) -> None:
        """Use a state directory with its own `config.toml`, like `--state-dir`, or a session.

        Raises:
            ConfigError: the configuration is wrong.
        """
        self.session = state if isinstance(state, Session) else _session_of(Path(state))

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
        """Fetch all lists, or those named in `only`; yield the result for each.

        A refused list stays as it was, and its result has an `error`. With a `copy` (a bundle or a
        directory), no network is used. `rebuild` builds the lists again from the provider's signed
        files; `accept_churn` accepts a change that the configured `max_churn` refuses. `progress`
        is called with a list's name, the bytes done and the bytes in all. If another fetch runs in
        this state directory, the wait is up to `wait_s` seconds; `on_wait` is called when it
        begins. `on_notices` is called for each provider that has notices; without it, `on_failure`
        is called with the errors of refused notices.

        Raises:
            LockedError: another fetch takes longer than that.
            HashclientError: the fetch from a provider failed; all others were tried first. Of
                several failures the worst is raised; `on_failure` is called with the others, and
                with failures of an address if another address succeeded.
            UsageError: no provider offers a list in `only`.
        """
        from hashclient.fetch.fetcher import How
        from hashclient.fetch.providers import fetch_all
        from hashclient.upkeep import tidy

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
        yield from fetch_all(
            self.session, only, provider, how, copy=place, wait_s=wait_s, on_wait=on_wait
        )

    def scan(
        self,
        *paths: str | os.PathLike[str],
        sources: Sequence[Source] = (),
        stream: Stream | None = None,
        objects: Objects | None = None,
        exclude: Collection[str] = (),
        one_file_system: bool = False,
        follow_symlinks: bool = False,
        sparse: bool = False,
        all_digests: bool = False,
        jobs: int | None = None,
        executor: str | None = None,
        inventory: bool = True,
        learn: bool = True,
        ignore_missing: bool = False,
        show_clean: bool = False,
        act: bool = True,
        quarantine: bool = False,
        only_tell: bool = False,
        exceptions: bool = True,
        members: bool = True,
        verify_sizes: bool = False,
        passwords: Sequence[bytes] = (),
        lists: OpenLists | None = None,
        brief: bool = False,
        front: FrontEnd | None = None,
    ) -> Scan:
        """Check files and trees; return the run, which works while the caller iterates over it.

        `paths` are files and trees, to which the options apply. Inputs from `sources` come after
        them, then `objects`, which are in buckets; `stream` is read once, before all others. Clean
        files are counted, and yielded only with `show_clean`. With `act`, the policy's actions are
        done about each match; with `quarantine`, every match is isolated, too; with `only_tell`,
        nothing is done, and outcomes say what would be done. Without `exceptions`, what people have
        excepted is a match all the same. With `all_digests`, all digests that
        the lists have are computed for each file, not only the cheapest. Without `inventory`, every
        file is read, even if it is known or believed unchanged; without `learn`, the inventory is
        neither read nor written. With `ignore_missing`, a file that is not there is skipped, not
        unread. `jobs` is the number of worker processes, by default one for each
        processor, and more while they wait for storage; with 0 all work is done in this process,
        which is slower and does not fork. With `executor`, other machines check the files:
        `dask://HOST:PORT`, or `local-cluster:N` for a trial; outcomes then have no digests. With
        `members`, members of archives and mail are checked, too; `verify_sizes` also reads members
        whose claimed size no entry has, and `passwords` are tried on encrypted members. `lists` are
        the lists to compare with, by default those that should be
        here. With `brief`, the log has one record of the run, a `watch-look`, in place of two.

        Raises:
            UsageError: there is nothing to check.
            StateError: no list can be used.
            ConfigError: the seal key or, if files are to be isolated, a recipient is wrong.
        """
        from hashclient.core.verdict import Summary
        from hashclient.decisions.interface import as_it_is
        from hashclient.scan.accept import accepting, ignoring_missing
        from hashclient.scan.engine import Progress, scan
        from hashclient.scan.executors.inline import Inline
        from hashclient.scan.members import container_options
        from hashclient.scan.memory import Memory
        from hashclient.scan.pipeline import FrontEnd, Scan
        from hashclient.scan.place import InventoryPlace
        from hashclient.scan.recorder import RunRecord
        from hashclient.scan.sources.frontier import WalkOptions
        from hashclient.scan.sources.mounts import Mounts
        from hashclient.scan.sources.several import Several
        from hashclient.scan.sources.trees import Trees
        from hashclient.scan.whereabouts import Whereabouts

        if not paths and not sources and stream is None and objects is None:
            raise UsageError("nothing to scan", hint="give a path")
        front = front or FrontEnd()
        observer = front.observer
        session, names = self.session, [os.fspath(path) for path in paths]
        state_dir = session.settings.state_dir
        lists = lists or session.open_lists()
        key_id = lists.sealer.key_id
        summary = Summary(lists=lists.states, missing=lists.missing)
        progress = Progress(summary)
        mounts = Mounts(
            state_dir, on_failure=observer.failed, on_change=observer.file_system_changed
        )
        if mounts.unknown is not None:
            summary.fail(mounts.unknown)
        memory = Memory()
        place = None
        if learn:
            reread_days = session.settings.config.inventory.reread_days
            place = InventoryPlace(state_dir, key_id, reread_days)
            memory = Memory(place, use=inventory, on_failure=observer.failed)
        containers = (
            container_options(
                session.settings.config.containers,
                observer.noticed,
                passwords,
                verify_sizes=verify_sizes,
            )
            if members
            else None
        )
        options = WalkOptions(tuple(exclude), one_file_system, follow_symlinks)
        trees = Trees(names, options, mounts)
        runs_at: Executor | None = Inline() if jobs == 0 else None
        if executor is not None:
            from hashclient.scan.cluster.address import parse_executor

            where = parse_executor(executor, session.settings.config.cluster)
            if where is not None:
                if follow_symlinks:
                    raise UsageError(
                        "a cluster follows no links: a link may lead elsewhere on another machine",
                        hint="give the targets as PATH, or let processes of this machine check the"
                        " files",
                    )
                if jobs is not None:
                    raise UsageError(
                        "the workers of a cluster are as many as were started",
                        hint="leave out the number of jobs, or let processes of this machine check"
                        " the files",
                    )
                from hashclient.scan.cluster.assembly import on_cluster
                from hashclient.scan.cluster.trees import ClusterTrees

                trees = ClusterTrees(names, options, mounts)
                runs_at = on_cluster(
                    where,
                    session,
                    lists,
                    trees,
                    exclude=options.exclude,
                    keep_clean=show_clean,
                    sparse=sparse,
                    all_digests=all_digests,
                    learn=learn,
                    inventory=place if inventory else None,
                    containers=containers,
                    objects_follow=objects is not None,
                    on_notice=observer.noticed,
                )
                if objects is not None:
                    objects.check_at(runs_at)
        accept = accepting(session.settings.config.accept, session.now().date())
        rule = as_it_is
        if exceptions:
            ruler = self._exceptions(lists, summary, front)
            lists, rule = ruler.lists, ruler.rule
        missing = ignoring_missing if ignore_missing else as_it_is
        source = Several([trees, *sources])
        outcomes = scan(
            source,
            lists,
            progress,
            again=trees.again(),
            jobs=jobs,
            executor=runs_at,
            keep_clean=show_clean,
            sparse=sparse,
            all_digests=all_digests,
            memory=memory,
            stream=stream,
            objects=objects,
            containers=containers,
            accept=lambda o: rule(missing(accept(o))),
        )
        responder = None
        if only_tell or (act and (quarantine or session.settings.config.policy)):
            from hashclient.scan.actions import Responder

            responder = Responder(
                session, lists.states, quarantine_all=quarantine, only_tell=only_tell
            )
        recorder = RunRecord(
            session,
            "watch-look" if brief else "scan",
            summary,
            key_id,
            on_failure=observer.failed,
            places_of=Whereabouts(mounts).of,
            decision=None if responder is None else responder.decision,
            brief=brief,
        )
        return Scan(
            outcomes,
            recorder,
            progress,
            mounts,
            trees.coverage,
            arguments=[
                *([] if stream is None else ["-"]),
                *source.arguments,
                *([] if objects is None else objects.arguments),
            ],
            actions=responder,
            front=front,
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
        """Check digests, in hexadecimal, and those in `files`; return the run.

        `-` among the files is `stdin`, if that is given. Inputs that cannot be decided without
        digests of other kinds are unread, or clean with `accept_gaps`. Clean inputs are counted,
        and yielded only with `show_clean`. `exceptions` is as for `scan`. `reading` chooses the
        rows of files and names their columns.

        Raises:
            UsageError: there is nothing to look up. The error of an unreadable file is raised in
                the end.
            StateError: no list can be used.
            ConfigError: the seal key is missing or malformed.
        """
        from hashclient.core.verdict import Summary
        from hashclient.decisions.interface import as_it_is
        from hashclient.scan.lookup import batches_of, lookup
        from hashclient.scan.pipeline import FrontEnd, Run
        from hashclient.scan.recorder import RunRecord

        if not digests and not files:
            raise UsageError("nothing to look up", hint="give digests, or a file of them")
        front = front or FrontEnd()
        observer = front.observer
        names = [os.fspath(path) for path in files]
        lists = lists or self.session.open_lists()
        summary = Summary(lists=lists.states, missing=lists.missing, gaps_accepted=accept_gaps)
        batches = batches_of(digests, names, stdin, observer.failed, reading)
        key_id = lists.sealer.key_id
        rule = self._exceptions(lists, summary, front).rule if exceptions else as_it_is
        return Run(
            lookup(batches, lists, summary, keep_clean=show_clean, rule=rule),
            RunRecord(self.session, "lookup", summary, key_id, on_failure=observer.failed),
            summary,
            arguments=[f"{len(digests)} digests", *names],
            front=front,
        )

    def to_review(self) -> list[Match]:
        """Return the matches that wait for a review, as `after` in [report] asks.

        Raises:
            StateError: they cannot be read.
        """
        from hashclient.decisions.review import ReviewPolicy
        from hashclient.matches.store import Matches

        with Matches(self.session.settings.state_dir, create=False) as record:
            waiting = ReviewPolicy(self.session.settings.config.report).waiting(record)
            return [record.get(match_id) for match_id in waiting]

    def review(
        self, *match_ids: str, verdict: Verdict, reason: str, text: str, viewed: bool = False
    ) -> list[tuple[Match, Verdict | None]]:
        """Note what the operator says of matches; return each with what is decided about it now.

        `reason` is a word of `REVIEW_REASONS`, `text` a sentence for the audit log. `viewed` notes
        that the operator has viewed the content, elsewhere. None is undecided: another person has
        to review it, too.

        Raises:
            UsageError: there is no such match, or the reason is none for the verdict; nothing is
                noted.
            AuditError, StateError: log or record cannot be written.
        """
        from hashclient.decisions.review import Review, review
        from hashclient.matches.store import Matches

        made = Review.of(verdict, f"{reason}: {text}", viewed=viewed)
        with Matches(self.session.settings.state_dir, create=False) as record:
            return [*review(self.session, record, match_ids, made)]

    def _exceptions(self, lists: OpenLists, summary: Summary, front: FrontEnd) -> Exceptions:
        """Return what excepts matches in a run; if exceptions cannot be used, the run has failed.

        Matches that would be excepted are matches then.
        """
        from hashclient.decisions.exceptions import Exceptions

        def failed(error: StateError) -> None:
            summary.fail(error)
            front.observer.failed(error)

        return Exceptions(self.session.settings.layout, lists, self.session.now, failed)

    def status(self, *, verify: bool = False) -> Status:
        """Return the state of everything in the state directory; nothing is fetched.

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


def _session_of(state_dir: Path) -> Session:
    from hashclient.config import COMMAND_TABLES, resolve_settings

    return Session(
        resolve_settings(
            state_dir=state_dir,
            config_path=None,
            seal_key_file=None,
            command_names=COMMAND_TABLES,
            environ=os.environ,
        )
    )
