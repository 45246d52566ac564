"""Fetches lists from a provider into sealed indexes, and switches each list to its new generation.

A fetch takes these steps for each list:

0. `switch` opens the local index, and compares a part of it with its digests.
1. `trust` looks up the signed hash of the list's `index.json`.
2. If the local index was built from this `index.json`, the manifest only gets a new time of the
   check.
3. If the local index was built from another `index.json`, the signed `index.json` is downloaded,
   verified and parsed, and refused if it is older.
4. The new segments are downloaded, verified, parsed, inspected by the guard and sealed, in order.
5. The result must have the signed count and checksum; otherwise the list is built again from its
   first segment.
6. The new manifest replaces the old one, which switches readers to the new generation.
7. Files that no manifest names any more are deleted.
8. `switch` logs the change, and records which earlier matches the new generation withdraws.

If a fetch is killed, readers see either the old or the new generation of a list, and the next fetch
of the same generation uses the runs that were finished before the kill. Steps 6 to 8 are taken for
several short lists together, because otherwise each list would have to wait for the disk.
"""

from __future__ import annotations

import contextlib
import functools
import time
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path

import msgspec
import numpy as np

from hashclient.audit.log import Event
from hashclient.core.errors import (
    AuthorisationError,
    ConfigError,
    HashclientError,
    StaleError,
    StateError,
    VerificationError,
)
from hashclient.core.staleness import CLOCK_TOLERANCE
from hashclient.decisions.keeping import set_aside
from hashclient.fetch.build import (
    Build,
    Progress,
    changed_segments,
    remove_list,
    sweep_removed,
    tidy,
)
from hashclient.fetch.denied import ask_for
from hashclient.fetch.guard import PoisonGuard, open_guard
from hashclient.fetch.known_listed import note_known_listed, read_known_listed
from hashclient.fetch.notices import OnNotices, fetch_notices
from hashclient.fetch.pinning import load_pinned_root
from hashclient.fetch.places import log_refusal
from hashclient.fetch.switch import (
    Base,
    Built,
    Fetched,
    open_base,
    reach_back,
    switch,
    withdraw_list,
)
from hashclient.index.blinding import Sealer
from hashclient.index.checks import LIMIT_S, note_pieces
from hashclient.index.manifest import Manifest, OtherKeyError, load_manifest
from hashclient.index.open_lists import OFFERS_NOTHING_HINT, lists_of_unconfigured
from hashclient.index.reader import Index, list_folders, open_manifest
from hashclient.index.run import DamagedError
from hashclient.index.writer import Room
from hashclient.lists.history import has_other, history_of
from hashclient.lists.wire import (
    INDEX_NAME,
    MAX_INDEX_BYTES,
    ListIndex,
    checksum_of,
    delta_of,
    parse_index,
)
from hashclient.session import Session
from hashclient.system.cgroups import available_memory
from hashclient.system.files import (
    is_there,
    make_private_dir,
    sweep_temporary,
    writer_lock,
)
from hashclient.system.layout import CHECKS_NAME, Layout
from hashclient.system.log import Log
from hashclient.system.text import first_of, for_people
from hashclient.trust.tuf import Source, Trust

_log = Log("fetch")

#: `AT_ONCE`: the largest number of built lists that wait for the disk together. `BUILT_S`: about
#: how long a list may wait for other lists, in seconds.
AT_ONCE = 64
BUILT_S = 1.0
#: Before a list with more than this many entries is built, readers are switched to the generations
#: that were built before.
LONG = 100_000
FORK_HINT = (
    "two hosts publish the same repository, or an older copy of it was put back; tell the provider:"
    " `hashclient provider status --against` names the fork"
)
#: The empty name, which no list can have, asks for notices only.
NO_LIST = ""


class ClockError(StaleError):
    """The local clock shows a time before the last check.

    If the clock is wrong, a fetch from another address would fail as well.
    """


class How(msgspec.Struct, frozen=True, kw_only=True):
    """The options and callbacks of a fetch, which are the same for all places of providers.

    `accept_churn`: accept changes that are larger than `max_churn` of a provider. `rebuild`: build
    lists from their first segment even if the local index is undamaged; only the manifest of the
    local index is read. `progress` is called when a segment is downloaded, and during a download if
    `received` counts received bytes. `on_failure` is called with errors that do not end the fetch.
    `on_notices` is called with the result for notices.
    """

    accept_churn: bool = False
    rebuild: bool = False
    progress: Progress = lambda *_: None
    received: Callable[[], int] = lambda: 0
    on_failure: Callable[[HashclientError], None] = lambda _: None
    on_notices: OnNotices = lambda _: None


AS_USUAL = How()


class Fetcher:
    """Fetches the lists of one provider from one place. The caller must have the writers' lock."""

    def __init__(
        self,
        session: Session,
        provider: str,
        source: Source,
        how: How = AS_USUAL,
        *,
        base: str | None = None,
        origin: str | None = None,
    ) -> None:
        """Prepare a fetch and read the seal key, which must exist.

        No other file is read, and nothing is requested.

        The addresses of files in `source` begin with `base`, by default the provider's address; the
        log names `origin` as the source, by default `base`.

        Raises:
            ConfigError: the seal key is missing or malformed.
            StateError: the seal key cannot be read.
        """
        self._session, self._settings, self._sealer = session, session.settings, session.sealer()
        self._provider, self._source, self._how = provider, source, how
        self._config = self._settings.provider(provider)
        #: The largest share of a list that may change at a time, or None if this fetch has no
        #: limit.
        self._max_churn = None if how.accept_churn else self._config.max_churn
        self._base = base or self._config.url or ""
        self._origin = origin or self._base
        #: `_built`: lists that were built or refused since the time `_since`. `_results`: results
        #: that are not yielded yet.
        self._built: list[Built | Fetched] = []
        self._since = 0.0
        self._results: deque[Fetched] = deque()
        #: The lists that the provider offers to this client.
        self._offered: tuple[str, ...] = ()

    @functools.cached_property
    def _guard(self) -> PoisonGuard:
        """The guard that inspects added entries.

        The guard reads the files of known good digests when it is first used.
        """
        config = self._config
        return open_guard(
            *(self._settings.state_dir, config.known_good, self._sealer, config.max_set_aside),
            verify=self._how.rebuild,
        )

    def fetch(self, only: frozenset[str] = frozenset()) -> Iterator[Fetched]:
        """Bring every list up to date, or the lists in `only`; yield the result for each list.

        If `lists` of the provider is set, 'every list' means the lists in `lists`, and the lists of
        the provider that have a folder on this machine. Scans expect all lists in `lists` and with
        a folder, so a fetch updates all of them. If a list is refused, the remaining lists are
        still fetched. A name in `only` that this provider does not offer is ignored, because
        another provider may offer it. If `only` contains only `NO_LIST`, notices are fetched, but
        no list. Lists that this place refuses are yielded first, with `is_denied`.

        Raises:
            HashclientError: the provider is refused as a whole, cannot be reached or refuses the
                credential; the audit log has a record of this.
            AuditError: the audit log cannot be written.
        """
        config = self._config
        _sweep(self._settings.layout)
        sweep_removed(self._settings.layout.lists)
        try:
            pinned = load_pinned_root(self._settings, self._provider)
            directory = self._settings.layout.metadata(self._provider)
            trust = Trust(
                *(directory, self._base, self._source, pinned),
                name=self._provider,
                now=self._session.now(),
            )
            self._refuse_clock_set_back()
            trust.refresh()
            offered, ended = trust.lists(), trust.ended()
            _log.info("provider %s: metadata is verified, lists: %d", self._provider, len(offered))
            fetch_notices(self._session, trust, self._provider, self._origin, self._how.on_notices)
            # A local list that the provider does not offer any more is refused, and its files are
            # kept.
            here = list(self._manifests())
            ours = {m.list for m in here if m.provider == self._provider}
            named = frozenset(config.lists or offered)
            expected = ours | self._without_manifest(here).intersection({*offered, *ended})
            known = expected.union(offered, named)
            if not known:
                raise StateError(
                    f"provider {self._provider}: no list is offered",
                    hint=OFFERS_NOTHING_HINT,
                )
            wanted = known & only if only else expected | named
            new = frozenset(offered).difference(expected, config.lists or ())
            asked = ask_for(trust, self._settings.layout.provider(self._provider), new, wanted)
            not_ours = asked.denied.union(asked.refused)
            self._offered = tuple(sorted({*offered} - not_ours))
            for name, refusal in asked.refused.items():
                yield Fetched(name, self._provider, error=refusal, is_denied=True)
            if not self._offered and not expected:
                raise AuthorisationError(
                    f"provider {self._provider}: the credential allows none of its lists"
                )
        except HashclientError as error:
            log_refusal(self._session.audit, self._provider, None, error, self._origin)
            raise
        names = sorted(wanted - not_ours)
        # Ended lists are dropped last, because the new manifests of the remaining lists then do not
        # name them as offered.
        names.sort(key=lambda name: (name in ended, name))
        make_private_dir(self._settings.layout.lists)
        for name in names:
            if name in ended or time.monotonic() > self._since + BUILT_S:
                self._publish()
            if not self._built:
                self._since = time.monotonic()
            try:
                if name in ended:
                    self._results.append(self._drop(name, is_here=name in expected))
                elif name not in offered:
                    raise VerificationError(
                        f"provider {self._provider} does not offer list {name}",
                        hint=f"the provider offers: {first_of(offered) or 'none'}; if you do not"
                        " want this list any more, remove it from `lists = […]` in the provider's"
                        " configuration, and remove its folder in the state directory",
                    )
                elif (failed := asked.failed.get(name)) is not None:
                    raise failed
                else:
                    built = self._fetch_list(trust, name, LIMIT_S / len(names))
                    self._built.append(built)
            except HashclientError as error:
                self._built.append(self._refused(name, error))
            if len(self._built) >= AT_ONCE or name == names[-1]:
                self._publish()
            while self._results:
                fetched = self._results.popleft()
                is_outside = bool(config.lists) and fetched.list_name not in named
                yield msgspec.structs.replace(fetched, is_outside=is_outside)
        # The metadata of roles was written while lists were fetched, and is made durable at the
        # end.
        trust.make_durable()

    def _refuse_clock_set_back(self) -> None:
        """Refuse to judge whether metadata has expired if the clock was set back."""
        now = self._session.now()
        for manifest in self._manifests():
            if manifest.checked_at > now + CLOCK_TOLERANCE:
                raise ClockError(
                    f"the clock shows {for_people(now)}, but list {manifest.list} was"
                    f" checked at {for_people(manifest.checked_at)}",
                    hint="set this machine's clock right; if the clock is right now, and was "
                    "ahead at the last check, remove the list's folder and fetch again",
                )

    def _manifests(self) -> Iterator[Manifest]:
        return manifests_here(self._settings.layout.lists, self._sealer)

    def _without_manifest(self, here: Collection[Manifest]) -> set[str]:
        """Return the lists that have a folder, but no manifest in `here` that names their provider.

        A folder that could belong to another provider is left out, so scans report its list as
        missing. If several providers are configured, every such folder is left out. If one provider
        is configured, the folders of lists of unconfigured providers are left out.
        """
        if len(self._settings.config.providers) > 1:
            return set()
        found = set(list_folders(self._settings.layout.lists)).difference(m.list for m in here)
        of_others = lists_of_unconfigured(self._settings, here) if found else ()
        return set() if of_others is None else found.difference(of_others)

    def _fetch_list(self, trust: Trust, name: str, limit_s: float) -> Built:
        """Build the present generation of a list.

        Comparing the local files takes at most `limit_s` seconds.
        """
        directory = make_private_dir(self._settings.layout.lists / name, durable=False)
        # Step 0 of a fetch: the local index is opened and compared.
        found = open_base(
            *(directory, self._provider, self._sealer, self._session.now()),
            rebuild=self._how.rebuild,
            limit_s=limit_s,
        )
        # Step 1 of a fetch: the signed hash of `index.json` is looked up.
        info = trust.target(name, INDEX_NAME)
        index_hash, expires, epoch = trust.hash_of(info), trust.expires(name), trust.epoch()
        signed = trust.hashes(name)
        here, base, delta = found.here, found.index, None
        other = frozenset() if here is None else changed_segments(here, signed)
        # Step 2 of a fetch: an unchanged list only gets a new time of the check.
        if base is not None and base.manifest.index_hash == index_hash and not other:
            same = msgspec.structs.replace(
                base.manifest, checked_at=self._session.now(), expires=expires, epoch=epoch
            )
            return self._note(directory, same, found, {}, same.generation, 0, 0)
        # Step 3 of a fetch: the new `index.json` is downloaded and parsed.
        history = history_of(info.custom)
        index = parse_index(trust.download(info, MAX_INDEX_BYTES), name)
        counts_on = here is not None and here.epoch in {"", epoch}
        is_other = False
        if here is not None:
            delta = delta_of(here.generation, index)
            is_other = any(s.name in other and s.last <= here.generation for s in index.segments)
            # After a consolidation, only the marks of generations can be compared.
            is_other |= delta is not None and has_other(history, here.generation, here.mark)
            if counts_on and (is_other or here.index_hash != index_hash):
                _refuse_rollback(here, index, is_other=is_other)
            if here.generation > index.generation or is_other:
                delta = None
            # If the list is built from its first segment, only the number of its entries is known
            # before the download, so the size of the change is at least the difference between the
            # two numbers of entries.
            changed = abs(index.entries - here.entries)
            if delta is not None:
                changed = sum(segment.entries for segment in delta)
            self._refuse_churn(
                here, index, changed, is_known=not self._how.rebuild or delta is not None
            )
            if is_other and counts_on:
                self._name_fork(here, index)
        # Steps 4 and 5 of a fetch: the new generation is built and verified.
        if index.entries > LONG:  # other lists must not wait for the download of a long list
            self._publish()
        known = read_known_listed(self._settings.state_dir).get(name)
        build = Build(
            *(self._provider, trust, self._sealer, self._guard, directory, index_hash, signed),
            *(expires, epoch, history.get(index.generation, ""), self._session.now()),
            *(self._how.progress, self._how.received),
            room=Room.of(available_memory()),
            set_aside=known.set_aside if known is not None else (),
        )
        manifest = None
        try:
            if base is not None and delta is not None:
                manifest = build.on_base(base, index, delta)
                if manifest is None and counts_on and _is_intact(base):
                    self._name_fork(base.manifest, index)
            if manifest is None:
                delta = list(index.segments) if here is None else None
                manifest = build.from_beginning(index, resume=not self._how.rebuild)
                if base is not None and self._max_churn is not None:
                    new = open_manifest(directory, manifest)
                    # A damaged local index cannot be compared with the new index; the numbers of
                    # their entries were compared above.
                    with contextlib.suppress(DamagedError):
                        both = base.live_entry_hashes(), new.live_entry_hashes()
                        changed = len(np.setxor1d(*both, assume_unique=True))
                        self._refuse_churn(base.manifest, index, changed)
        except HashclientError as error:
            # If the provider has signed wrong data, the next build would fail in the same way, so
            # nothing of this build is kept. After any other error, the next fetch continues the
            # build.
            tidy(directory, keep_staging=not isinstance(error, VerificationError))
            raise
        counts = [
            None if delta is None else sum(s.entries for s in delta if s.kind == kind)
            for kind in ("add", "withdraw")
        ]
        before = here.generation if here else None
        built = self._note(directory, manifest, found, build.pieces, before, *counts)
        return msgspec.structs.replace(built, has_met_good=bool(build.met))

    def _name_fork(self, here: Manifest, index: ListIndex) -> None:
        """Report that a new generation does not continue the local generation."""
        error = VerificationError(
            f"list {index.list} has forked: generation {index.generation} does not follow"
            f" generation {here.generation}, which is here; the list is built again",
            hint=FORK_HINT,
        )
        self._how.on_failure(error)

    def _drop(self, name: str, *, is_here: bool) -> Fetched:
        """Withdraw the matches of a list that has ended, and remove the files of the list.

        If `is_here` is False, only the configuration names the list, and a folder of this name may
        belong to another provider. The folder is removed in one step at the end, so after a kill
        the next fetch repeats this method.
        """
        dropped = Fetched(name, self._provider, source=self._origin, is_ended=True)
        if not is_here:
            return dropped
        here = next((m for m in self._manifests() if m.list == name), None)
        if here is not None and here.entries and self._max_churn is not None:
            raise VerificationError(
                f"list {name} has ended, and max_churn limits how much of a list may be removed "
                "at once",
                hint="ask the provider; `hashclient fetch --accept-churn` drops the list",
            )
        generation = here.generation if here else 1
        data = {"provider": self._provider, "list": name, "before": here and here.generation}
        data["source"] = self._origin
        self._session.audit.append([Event("list-ended", data)], durable=True)
        affected = withdraw_list(self._session, name, generation)
        remove_list(self._settings.layout.lists / name)
        return msgspec.structs.replace(dropped, before=here and here.generation, affected=affected)

    def _note(
        self,
        directory: Path,
        manifest: Manifest,
        found: Base,
        pieces: Mapping[str, bytes],
        before: int | None,
        added: int | None,
        withdrawn: int | None,
    ) -> Built:
        """Complete the manifest of a list that was built.

        The completed manifest names the offered lists, and has the times at which the pieces of its
        runs were compared. `pieces` has the digests of the pieces of new runs, by the name of the
        run.
        """
        base = found.index.manifest if found.index else None
        known = {run.name for run in base.runs} if base else set()
        files = [directory / run.name for run in manifest.runs if run.name not in known]
        if manifest.verified_at is None:
            now = self._session.now()
            manifest = note_pieces(directory, manifest, base, pieces, self._sealer, now)
            files.append(directory / CHECKS_NAME)
        manifest = msgspec.structs.replace(manifest, offered=self._offered)
        fetched = Fetched(
            *(manifest.list, self._provider, before, manifest.generation, added, withdrawn),
            *(manifest.entries, manifest.expires, manifest.published_at),
            is_ahead=manifest.published_at > self._session.now() + CLOCK_TOLERANCE,
            source=self._origin,
        )
        return Built(directory, manifest, files, fetched)

    def _publish(self) -> None:
        """Switch all lists that are built to their new generations."""
        waiting = [*self._built]
        self._built.clear()
        built = [one for one in waiting if isinstance(one, Built)]
        failures = switch(self._session, self._sealer, built)
        for result in waiting:
            if isinstance(result, Fetched):
                self._results.append(result)
            elif (failure := failures.get(result.directory)) is not None:
                self._results.append(self._refused(result.manifest.list, failure))
            else:
                self._results.append(self._done(result))

    def _refuse_churn(
        self, manifest: Manifest, index: ListIndex, changed: int, *, is_known: bool = True
    ) -> None:
        """Refuse a generation that changes a larger share of the list than the operator allows.

        If `is_known` is False, the size of the change is not known, and any change is refused.
        """
        limit = self._max_churn
        if limit is None:
            return
        if manifest.entries and changed > limit * manifest.entries:
            raise VerificationError(
                f"list {index.list}: generation {index.generation} changes {changed:,} of"
                f" {manifest.entries:,} entries, more than max_churn = {limit:g} allows",
                hint="ask the provider; `hashclient fetch --accept-churn` accepts the change",
            )
        if not is_known and manifest.checksum != index.checksum:
            raise VerificationError(
                f"list {index.list}: the size of the change by generation {index.generation} is "
                "not known without reading the index that is here",
                hint="`hashclient fetch` without --rebuild compares both; `hashclient fetch "
                "--rebuild --accept-churn` accepts the generation without comparing",
            )

    def _done(self, one: Built) -> Fetched:
        """Return the result for a list whose new generation is in use."""
        fetched, manifest = one.fetched, one.manifest
        index = functools.partial(open_manifest, one.directory, manifest)
        files = self._config.known_good
        made: list[bool] = []
        try:
            # A missing file of `known_good` is an error only if the guard needs the file for an
            # update.
            with contextlib.suppress(ConfigError):
                known = note_known_listed(
                    *(self._settings.state_dir, files, manifest),
                    *(lambda: self._guard, index),
                    lambda ids: made.append(set_aside(self._session, self._sealer, index(), ids)),
                    met=one.has_met_good,
                )
                fetched = msgspec.structs.replace(
                    fetched, known_good=known, has_exceptions=any(made)
                )
            reached = reach_back(self._session, index)
        except StateError as error:
            # The new generation stays in use; when the error is repaired, the next fetch records
            # the withdrawals.
            return msgspec.structs.replace(fetched, problem=error)
        return msgspec.structs.replace(
            fetched, affected=reached.withdrawn, listed_again=reached.listed_again
        )

    def _refused(self, name: str, error: HashclientError) -> Fetched:
        log_refusal(self._session.audit, self._provider, name, error, self._origin)
        return Fetched(name, self._provider, error=error, source=self._origin)


def _sweep(layout: Layout) -> None:
    """Remove temporary files of killed commands from the state directory.

    A scan writes `mounts.json` there without the writers' lock, so nothing is removed while a scan
    has the lock of `mounts.json`.
    """
    with contextlib.ExitStack() as stack, contextlib.suppress(StateError):
        if is_there(layout.mounts_lock):
            stack.enter_context(writer_lock(layout.mounts_lock))
        sweep_temporary(layout.root)


def manifests_here(lists_dir: Path, sealer: Sealer) -> Iterator[Manifest]:
    """Yield the manifests of all local lists whose code is right.

    Raises:
        StateError: a manifest cannot be read, so the limits that it sets for its list are not
            known.
    """
    for name in list_folders(lists_dir):
        with contextlib.suppress(DamagedError, OtherKeyError):
            if (manifest := load_manifest(lists_dir / name, sealer)) is not None:
                yield manifest


def _is_intact(index: Index) -> bool:
    """Return whether the checksum of the entries of a local index is right."""
    with contextlib.suppress(DamagedError):
        return checksum_of(index.live_id_hashes()) == int(index.manifest.checksum, 16)
    return False


def _refuse_rollback(manifest: Manifest, index: ListIndex, *, is_other: bool) -> None:
    same = (index.entries, index.checksum) == (manifest.entries, manifest.checksum)
    if index.generation < manifest.generation:
        what = f"is older than {manifest.generation}, which is here"
    elif index.generation == manifest.generation and (is_other or not same):
        what = "was published again with other entries"
    else:
        return
    raise VerificationError(
        f"list {index.list}: generation {index.generation} {what}",
        hint=f"nothing was changed; {FORK_HINT}",
    )
