"""Starts a scan: makes its parts from the settings and the options, and connects them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING

import msgspec

from hashclient.containers.limits import Options
from hashclient.core.errors import UsageError
from hashclient.core.match import Place
from hashclient.core.model import Outcome
from hashclient.core.objecturi import ObjectUri, split_paths
from hashclient.core.verdict import Summary
from hashclient.decisions.interface import Rule, Rules, as_they_are
from hashclient.index.open_lists import OpenLists
from hashclient.scan.cache.memory import InventoryPlace, Memory
from hashclient.scan.check.members import container_options
from hashclient.scan.check.streaming import Stream
from hashclient.scan.executors.here import Here, Inline
from hashclient.scan.executors.interface import Executor
from hashclient.scan.run.accept import accepting, ignoring_missing
from hashclient.scan.run.engine import Progress, scan
from hashclient.scan.run.pipeline import FrontEnd, Scan, exceptions_of
from hashclient.scan.run.recorder import RunRecord
from hashclient.scan.sources.interface import Several, Source
from hashclient.scan.sources.mounts import Mounts
from hashclient.scan.values.options import PROCESSES, ScanOptions
from hashclient.session import Session

if TYPE_CHECKING:
    from hashclient.scan.objects.objects import Objects
    from hashclient.scan.run.actions import Responder


#: The bytes of disk space for objects that may be containers, which are kept until they are opened.
SPOOL_BYTES = 4 << 30


class Inputs(msgspec.Struct, frozen=True):
    """The inputs of a scan: a stream, `paths` of files and trees, sources, and objects.

    The stream is checked first, then the paths, the sources and the objects.
    """

    paths: Sequence[str] = ()
    sources: Sequence[Source] = ()
    stream: Stream | None = None
    objects: Objects | None = None

    def arguments(self, source: Source) -> list[str]:
        """Return the arguments of a run that reads paths from `source`, as the log shows them."""
        of_stream = [] if self.stream is None else ["-"]
        of_objects = [] if self.objects is None else self.objects.arguments
        return [*of_stream, *source.arguments, *of_objects]


def start_scan(
    session: Session,
    inputs: Inputs,
    options: ScanOptions,
    lists: OpenLists | None = None,
    front: FrontEnd | None = None,
) -> Scan:
    """Return a scan that has not begun, by default with all lists of the session.

    Raises:
        UsageError: no input is given, or options contradict each other.
        StateError: no list can be used.
        ConfigError: the seal key, a recipient, a certificate or a rule of the policy is wrong.
    """
    if not (inputs.paths or inputs.sources or inputs.stream or inputs.objects):
        raise UsageError("nothing to scan", hint="give a path")
    front, lists = front or FrontEnd(), lists or session.open_lists()
    paths, uris = split_paths(inputs.paths)
    if uris and inputs.objects is not None:
        raise UsageError("objects are given twice", hint="give URIs, or `objects`")
    objects = inputs.objects or objects_of(session, uris, options, lists.sealer.key_id)
    inputs = msgspec.structs.replace(inputs, paths=paths, objects=objects)
    observer, state_dir = front.observer, session.settings.state_dir
    config, key_id = session.settings.config, lists.sealer.key_id
    summary = Summary(lists=lists.states, missing=lists.missing)
    progress = Progress(summary)
    mounts = Mounts(state_dir, on_failure=observer.failed, on_change=observer.file_system_changed)
    if mounts.unknown is not None:
        summary.fail(mounts.unknown)
    reread_days = config.inventory.reread_days
    place = InventoryPlace(state_dir, key_id, reread_days) if options.learn else None
    containers = None
    if options.members:
        containers = container_options(
            config.containers,
            observer.noticed,
            options.passwords,
            verify_sizes=options.verify_sizes,
        )
    rules = _rules(session, options, paths)
    if options.exceptions:
        ruler = exceptions_of(session, lists, summary, observer)
        lists, rules = ruler.lists, _then(rules, ruler.rule_all)
    executor = _executor_of(
        options,
        session,
        lists,
        objects=inputs.objects,
        inventory=place if options.inventory else None,
        containers=containers,
        on_notice=observer.noticed,
    )
    trees = executor.trees(inputs.paths, options, mounts)
    source = Several([trees, *inputs.sources])
    outcomes = scan(
        source,
        lists,
        progress,
        options,
        executor=executor,
        again=trees,
        memory=Memory(place, use=options.inventory, on_failure=observer.failed),
        stream=inputs.stream,
        objects=inputs.objects,
        containers=containers,
        accept=rules,
    )
    responder = _responder(session, options, lists)
    recorder = RunRecord(
        session,
        "watch-look" if options.brief else "scan",
        summary,
        key_id,
        on_failure=observer.failed,
        places_of=_places_at(mounts),
        decision=None if responder is None else responder.decision,
        lists=lists,
        brief=options.brief,
    )
    parts = outcomes, recorder, progress, mounts, trees.coverage
    return Scan(*parts, arguments=inputs.arguments(source), actions=responder, front=front)


def _places_at(mounts: Mounts) -> Callable[[Sequence[Outcome]], list[Place]]:
    def at(outcomes: Sequence[Outcome]) -> list[Place]:
        # imported here, because few scans have a match
        from hashclient.scan.run.whereabouts import places_of

        return places_of(outcomes, mounts)

    return at


def objects_of(
    session: Session,
    uris: Sequence[ObjectUri],
    options: ScanOptions,
    key_id: str,
    *,
    reads: bool = True,
    all_versions: bool = False,
    after: str | None = None,
    report: str | None = None,
) -> Objects | None:
    """Return the scan of the objects at `uris` or in a `report`; None if both are missing.

    `key_id` identifies the key that seals the tags of the inventory. `reads`, `all_versions` and
    `after` have the same meaning as in `Request`. `report` is the path or URI of an inventory
    report.

    Raises:
        UsageError: a library is missing, or the report does not belong to the URI.
    """
    if not uris and report is None:
        return None
    for library in ("obstore", "botocore", "arro3"):
        if find_spec(library) is None:  # an error here comes before the scan begins
            from hashclient.objects.failures import missing_extra

            raise missing_extra(ImportError(name=library))
    from hashclient.scan.check.kept import Spool
    from hashclient.scan.objects.cache import ObjectMemory
    from hashclient.scan.objects.objects import READERS, Objects, Request, Tools

    settings = session.settings
    config, spool = settings.config, Spool(settings.layout.spool, SPOOL_BYTES)
    listing = None
    if report is not None:
        from hashclient.objects.report import Report

        listing = Report(report, uris[0] if uris else None, make_file=spool.open)
        uris = (listing.uri,)
    place = InventoryPlace(settings.state_dir, key_id, config.inventory.reread_days)
    memory = ObjectMemory(place, config.inventory.reread_days) if options.inventory else None

    def trusts(bucket: str) -> bool:
        known = config.objects.get(bucket)
        return known is not None and known.trust_etag

    tools = Tools(spool, memory, options.learn, trusts, options.jobs or READERS)
    return Objects(Request((*uris,), reads, all_versions, after, listing), tools)


def _executor_of(
    options: ScanOptions,
    session: Session,
    lists: OpenLists,
    *,
    objects: Objects | None,
    inventory: InventoryPlace | None,
    containers: Options | None,
    on_notice: Callable[[str], None],
) -> Executor:
    """Return the executor that `options` name, before it starts a connection or a process.

    An executor on a cluster lists and reads `objects` as well.

    Raises:
        UsageError: the executor is unknown, or does not support one of the other options.
        ConfigError: the certificates for a cluster are missing, or cannot be used.
    """
    if options.executor not in (None, PROCESSES):
        from hashclient.scan.cluster.address import parse_executor

        where = parse_executor(options.executor, session.settings.config.cluster)
        if where is not None:
            from hashclient.scan.cluster.assembly import on_cluster

            cluster = on_cluster(
                where,
                options,
                session,
                lists,
                inventory=inventory,
                containers=containers,
                on_notice=on_notice,
                objects=objects is not None,
            )
            if objects is not None:
                objects.check_at(cluster)
            return cluster
    return Inline() if options.jobs == 0 else Here(options.jobs)


def _rules(session: Session, options: ScanOptions, paths: Sequence[str]) -> Rules:
    """Return the rules about outcomes from the configuration and the options.

    The option `ignore_missing` is about names from another program, and not about `paths`, which
    the user gave.
    """
    rules: Rules = as_they_are
    if accept := session.settings.config.accept:
        rules = _each(accepting(accept, session.now().date()))
    if options.ignore_missing:
        given = frozenset(paths)
        rules = _then(rules, _each(lambda o: o if o.path in given else ignoring_missing(o)))
    return rules


def _each(rule: Rule) -> Rules:
    return lambda outcomes: list(map(rule, outcomes))


def _then(first: Rules, second: Rules) -> Rules:
    return lambda outcomes: second(first(outcomes))


def _responder(session: Session, options: ScanOptions, lists: OpenLists) -> Responder | None:
    """Return the `Responder` of a scan; None if no match can need an action."""
    wants = options.quarantine or bool(session.settings.config.policy)
    if not options.policy_check and not (options.actions and wants):
        return None
    from hashclient.scan.run.actions import Responder

    return Responder(
        session,
        lists.states,
        quarantine_all=options.quarantine,
        only_tell=options.policy_check,
    )
