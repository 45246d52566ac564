"""The first pipeline: from a provider to sealed indexes, one generation switch a list.

For each list: 1 the signed index is looked up through trust; 2 if it is the one we have, only the
time of the check is noted; 3 it is downloaded, verified, parsed, and refused if it goes back;
4 the segments that are new to us are downloaded, verified, parsed, guarded and sealed, in order;
5 the result must have the signed count and checksum, else the list is built anew from its base;
6 the manifest is replaced: that is the switch; 7 what no manifest names is swept; 8 the audit log
hears of it, and of the paths that matched what was withdrawn. A kill at any point leaves the old
generation or the new one; runs that were finished before it are used by the next attempt at the
same generation.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import msgspec
import numpy as np
from tuf.api.metadata import TargetFile

from hashclient.access import Access, OAuth
from hashclient.audit import AuditLog, Event, path_fields
from hashclient.config import ProviderConfig, Settings
from hashclient.errors import (
    ConfigError,
    HashclientError,
    StaleError,
    StateError,
    VerificationError,
)
from hashclient.fsio import (
    make_private_dir,
    printable,
    state_error,
    sweep_temporary,
    user_path,
    write_atomic,
)
from hashclient.hashlist import (
    MAX_INDEX_BYTES,
    MAX_LIST_BYTES,
    MAX_SEGMENT_BYTES,
    ListIndex,
    Segment,
    entry_hashes,
    parse_add_segment,
    parse_index,
    parse_withdraw_segment,
)
from hashclient.index import (
    CLOCK_TOLERANCE,
    MANIFEST_FORMAT,
    MANIFEST_NAME,
    DamagedError,
    Index,
    Manifest,
    RunRef,
    check_key,
    load_manifest,
    open_index,
    open_manifest,
)
from hashclient.indexwrite import InconsistentError, IndexWriter, sweep, write_manifest
from hashclient.knowngood import PoisonGuard, open_guard
from hashclient.matches import DATABASE_NAME, Matches, Remembered
from hashclient.seal import Sealer
from hashclient.trust import Source, Trust

PINNED_ROOT_NAME = "pinned-root.json"
#: Apart from the pinned root, for a file in there may have the name of any role.
METADATA_DIR = "metadata"
STAGING_NAME = "staging.json"
INDEX_FILE = "index.json"

#: Records that go to the audit log at a time.
AUDIT_BATCH = 512

#: Segments that are downloaded at a time, and the bytes they may have in memory together.
AT_ONCE = 3
AHEAD_BYTES = 256 << 20

#: Called with (list, bytes done, bytes to do) while segments are downloaded.
Progress = Callable[[str, int, int], None]


class _Staging(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How far an unfinished build has come: the first `segments` of the index are in `partial`."""

    segments: int
    partial: Manifest


@dataclass(frozen=True, slots=True)
class Fetched:
    """What became of one list in a fetch.

    `before` is the generation that was here, None for a first fetch. `added` and `withdrawn`
    count entries, and are None when the list had to be built anew over an older generation.
    `affected` are paths that matched entries which are withdrawn now. `error` says why the list
    was left as it was.
    """

    list_name: str
    provider: str
    before: int | None = None
    generation: int | None = None
    added: int | None = None
    withdrawn: int | None = None
    entries: int | None = None
    expires: datetime | None = None
    affected: tuple[Remembered, ...] = ()
    error: HashclientError | None = None

    @property
    def changed(self) -> bool:
        """Whether the list has a generation that it did not have before."""
        return self.error is None and self.before != self.generation


class Fetcher:
    """Fetches the lists of one provider. The caller holds the writers' lock."""

    def __init__(
        self,
        settings: Settings,
        provider: str,
        source: Source,
        sealer: Sealer,
        audit: AuditLog,
        *,
        now: Callable[[], datetime],
        progress: Progress | None = None,
        accept_churn: bool = False,
        rebuild: bool = False,
    ) -> None:
        """Bind what a fetch needs; nothing is read or sent yet.

        `accept_churn` lets pass what the provider's `max_churn` would refuse. `rebuild` builds
        lists from their first segment even where what is here looks sound.
        """
        self.provider = provider
        self.sealer = sealer
        self.now = now
        self.progress = progress or (lambda *_: None)
        self._settings = settings
        self._audit = audit
        self._source = source
        self._accept_churn = accept_churn
        self._rebuild = rebuild

    @functools.cached_property
    def guard(self) -> PoisonGuard:
        """The guard over what is added; its known good files are read when it is first needed."""
        known_good = self._settings.provider(self.provider).known_good
        return open_guard(self._settings.state_dir, known_good, self.sealer)

    def fetch(self, only: frozenset[str] = frozenset()) -> Iterator[Fetched]:
        """Bring every list up to date, or those of them in `only`; yield what became of each.

        A list that is refused does not keep the others from being fetched. A name in `only` that
        is not this provider's is passed over: it may be another's.

        Raises:
            HashclientError: of the class that fits, when the provider as a whole is refused,
                cannot be reached or does not let us in; the audit log has heard of it then.
            AuditError: the audit log cannot be written.
        """
        config = self._settings.provider(self.provider)
        sweep_temporary(self._settings.state_dir)
        try:
            pinned = load_pinned_root(self._settings, self.provider)
            directory = self._settings.trust_dir(self.provider) / METADATA_DIR
            trust = Trust(
                directory, config.url, self._source, pinned, name=self.provider, now=self.now()
            )
            self._refuse_clock_set_back()
            trust.refresh()
            offered = trust.lists()
        except HashclientError as error:
            self._log_refusal(None, error)
            raise
        # A list that we have and that is not offered any more is refused, not forgotten.
        ours = {m.list for m in self._manifests() if m.provider == self.provider}
        known = ours.union(offered, config.lists or ())
        for name in sorted(known & only if only else config.lists or known):
            try:
                if name not in offered:
                    raise VerificationError(
                        f"provider {self.provider} does not offer list {name}",
                        hint=f"it offers: {', '.join(offered) or 'none'}; to give up a list,"
                        " remove its folder in the state directory",
                    )
                yield self._fetch_list(trust, name)
            except HashclientError as error:
                self._log_refusal(name, error)
                yield Fetched(name, self.provider, error=error)
        # Role metadata was loaded list by list; what was written since is made durable, too.
        trust.make_durable()

    def _refuse_clock_set_back(self) -> None:
        """Refuse to judge expiry by a clock that shows a time before the last check."""
        now = self.now()
        for manifest in self._manifests():
            if manifest.checked_at > now + CLOCK_TOLERANCE:
                raise StaleError(
                    f"the clock shows {now:%Y-%m-%d %H:%M} UTC, but list {manifest.list} was"
                    f" checked at {manifest.checked_at:%Y-%m-%d %H:%M} UTC",
                    hint="set this machine's clock right; if it is right now and was ahead then,"
                    " remove the list's folder and fetch again",
                )

    def _manifests(self) -> Iterator[Manifest]:
        """Yield the manifests of all lists that are here and not damaged."""
        for path in sorted(self._settings.lists_dir.glob(f"*/{MANIFEST_NAME}")):
            with contextlib.suppress(DamagedError):
                if (manifest := load_manifest(path.parent)) is not None:
                    yield manifest

    def _fetch_list(self, trust: Trust, name: str) -> Fetched:
        directory = make_private_dir(self._settings.lists_dir / name)
        base = self._open_base(directory)
        # 1
        info = trust.target(name, INDEX_FILE)
        build = _Build(self, trust, directory, info.hashes["sha256"], trust.expires(name))
        # 2
        unchanged = base is not None and base.manifest.index_hash == build.index_hash
        if base is not None and unchanged and not self._rebuild:
            same = msgspec.structs.replace(
                base.manifest, checked_at=self.now(), expires=build.expires
            )
            write_manifest(directory, same)
            _tidy(directory)
            return self._done(directory, same, same.generation, 0, 0)
        # 3
        index = parse_index(trust.download(info, MAX_INDEX_BYTES), name)
        if base is not None:
            _refuse_rollback(base.manifest, index)
        # 4, 5
        delta = None if base is None else _delta(base.manifest.generation, index)
        if base is not None:
            self._refuse_churn(base.manifest, index, delta)
        manifest = None
        try:
            if base is not None and delta is not None and not self._rebuild:
                manifest = build.on_base(base, index, delta)
            if manifest is None:
                delta = list(index.segments) if base is None else None
                manifest = build.anew(index)
        except HashclientError as error:
            # What was signed stays wrong; after anything else, the next attempt goes on from here.
            _tidy(directory, keep_staging=not isinstance(error, VerificationError))
            raise
        # 6, 7, 8
        write_manifest(directory, manifest)
        _tidy(directory)
        counts = [
            None if delta is None else sum(s.entries for s in delta if s.kind == kind)
            for kind in ("add", "withdraw")
        ]
        before = base.manifest.generation if base else None
        return self._done(directory, manifest, before, *counts)

    def _refuse_churn(
        self, manifest: Manifest, index: ListIndex, delta: list[Segment] | None
    ) -> None:
        """Refuse a generation that changes more of the list than the operator finds plausible."""
        limit = self._settings.provider(self.provider).max_churn
        if limit is None or self._accept_churn or not manifest.entries:
            return
        changed = abs(index.entries - manifest.entries)
        if delta is not None:
            changed = sum(segment.entries for segment in delta)
        if changed > limit * manifest.entries:
            raise VerificationError(
                f"list {index.list}: generation {index.generation} changes {changed:,} of"
                f" {manifest.entries:,} entries, more than max_churn = {limit:g} allows",
                hint="ask the provider; `hashclient fetch --accept-churn` takes it all the same",
            )

    def _reach_back(self, directory: Path, manifest: Manifest) -> tuple[Remembered, ...]:
        """Find earlier matches of entries that are not on the list any more, and note them.

        Cost follows what was ever matched. It is done at every fetch, so that one which was
        killed between switch and note is made up for. The log hears first: a kill between log
        and record repeats a line, and loses none.
        """
        name = manifest.list
        if not (self._settings.state_dir / DATABASE_NAME).exists():
            return ()
        with Matches(self._settings.state_dir) as matches:
            standing = matches.standing(name)
            if not standing:
                return ()
            ids = np.array([entry.encode() for entry in standing])
            found = open_manifest(directory, manifest).find_ids(ids, entry_hashes(ids))
            gone = [standing[i] for i in np.setdiff1d(np.arange(len(ids)), found.queries)]
            affected = matches.of_entries(name, gone)
            events = [
                Event(
                    "withdrawn",
                    {
                        "list": name,
                        "entry": match.entry,
                        "generation": manifest.generation,
                        **path_fields(match.path),
                    },
                )
                for match in affected
            ]
            for start in range(0, len(events), AUDIT_BATCH):
                self._audit.append(events[start : start + AUDIT_BATCH], durable=True)
            matches.withdraw(name, gone, manifest.generation, self.now())
        return tuple(affected)

    def _open_base(self, directory: Path) -> Index | None:
        """Open what is here already; something damaged counts as nothing and is built again."""
        try:
            base = open_index(directory)
        except DamagedError:
            return None
        if base is None:
            return None
        if base.manifest.provider != self.provider:
            raise ConfigError(
                f"list {base.manifest.list} is here already, from provider"
                f" {base.manifest.provider}",
                hint="name the lists to fetch with `lists = […]` in the provider's configuration",
            )
        check_key(base.manifest, self.sealer.key_id)
        return base

    def _done(
        self,
        directory: Path,
        manifest: Manifest,
        before: int | None,
        added: int | None,
        withdrawn: int | None,
    ) -> Fetched:
        """Log and return what became of a list."""
        fetched = Fetched(
            list_name=manifest.list,
            provider=self.provider,
            before=before,
            generation=manifest.generation,
            added=added,
            withdrawn=withdrawn,
            entries=manifest.entries,
            expires=manifest.expires,
        )
        data = {
            "provider": self.provider,
            "list": manifest.list,
            "before": before,
            "generation": manifest.generation,
            "added": added,
            "withdrawn": withdrawn,
            "entries": manifest.entries,
            "index_sha256": manifest.index_hash,
        }
        self._audit.append([Event("fetch", data)], durable=True)
        return dataclasses.replace(fetched, affected=self._reach_back(directory, manifest))

    def _log_refusal(self, list_name: str | None, error: HashclientError) -> None:
        data = {
            "provider": self.provider,
            "list": list_name,
            "exit_code": int(error.exit_code),
            "reason": error.message,
        }
        self._audit.append([Event("refused", data)], durable=True)


@dataclass(frozen=True, slots=True)
class _Build:
    """One generation of one list in the making."""

    fetcher: Fetcher
    trust: Trust
    directory: Path
    index_hash: str
    expires: datetime

    def on_base(self, base: Index, index: ListIndex, delta: list[Segment]) -> Manifest | None:
        """Apply `delta` to `base`; None if that does not give what was signed."""
        writer = IndexWriter(self.directory, self.fetcher.sealer, base)
        try:
            for segment, data in self._download(index, delta):
                _apply(writer, self.fetcher.guard, segment, data)
            if not _adds_up(writer, index):
                return None
            return self._manifest(index, writer, writer.finish())
        except (InconsistentError, DamagedError):
            return None

    def anew(self, index: ListIndex) -> Manifest:
        """Build the list from its first segment, or from where a killed build had come to.

        Raises:
            VerificationError: the segments do not give what was signed.
        """
        staging = self._load_staging()
        keep = {run.name for run in staging.partial.runs} if staging else set()
        if (current := _load_current(self.directory)) is not None:
            keep |= {run.name for run in current.runs}
        sweep(self.directory, frozenset(keep))
        base = open_manifest(self.directory, staging.partial) if staging else None
        writer = IndexWriter(self.directory, self.fetcher.sealer, base)
        skip = staging.segments if staging else 0
        for number, (segment, data) in enumerate(self._download(index, index.segments, skip), skip):
            _apply(writer, self.fetcher.guard, segment, data)
            if writer.is_flushed and number + 1 < len(index.segments):
                partial = self._manifest(index, writer, writer.run_refs())
                document = msgspec.json.encode(_Staging(number + 1, partial))
                write_atomic(self.directory / STAGING_NAME, document)
        if not _adds_up(writer, index):
            raise VerificationError(
                f"list {index.list}: its segments do not add up to the signed count and checksum",
                hint="nothing was changed; tell the provider",
            )
        return self._manifest(index, writer, writer.finish())

    def _download(
        self, index: ListIndex, segments: Sequence[Segment], skip: int = 0
    ) -> Iterator[tuple[Segment, bytes]]:
        """Yield segments after the first `skip` with their verified bytes, in their order.

        Some are downloaded ahead while one is sealed, as far as `AHEAD_BYTES` allows.
        """
        infos = [self.trust.target(index.list, segment.name) for segment in segments]
        total = sum(info.length for info in infos)
        if total > MAX_LIST_BYTES:
            raise VerificationError(f"list {index.list} has {total} bytes to download")
        done = sum(info.length for info in infos[:skip])
        waiting = deque(zip(segments[skip:], infos[skip:], strict=True))
        running: deque[tuple[Segment, TargetFile, _Download]] = deque()
        while waiting or running:
            ahead = sum(info.length for _, info, _ in running)
            while waiting and len(running) < AT_ONCE and (ahead < AHEAD_BYTES or not running):
                segment, info = waiting.popleft()
                running.append((segment, info, _Download(self.trust, info)))
                ahead += info.length
            self.fetcher.progress(index.list, done, total)
            segment, info, download = running.popleft()
            yield segment, download.result()
            done += info.length
        self.fetcher.progress(index.list, done, total)

    def _load_staging(self) -> _Staging | None:
        """Return how far a killed build of this same generation came, if it can be used."""
        staging = _read_staging(self.directory)
        if staging is None:
            return None
        partial = staging.partial
        try:
            open_manifest(self.directory, partial)
        except (OSError, StateError):
            return None
        if (partial.index_hash, partial.key_id) != (self.index_hash, self.fetcher.sealer.key_id):
            return None
        return staging

    def _manifest(
        self, index: ListIndex, writer: IndexWriter, runs: tuple[RunRef, ...]
    ) -> Manifest:
        now = self.fetcher.now()
        return Manifest(
            format=MANIFEST_FORMAT,
            list=index.list,
            provider=self.fetcher.provider,
            generation=index.generation,
            published_at=index.published_at,
            fetched_at=now,
            checked_at=now,
            expires=self.expires,
            entries=writer.entries,
            checksum=f"{writer.checksum:016x}",
            with_digest={a.label: n for a, n in writer.with_digest.items()},
            with_size=writer.with_size,
            key_id=self.fetcher.sealer.key_id,
            index_hash=self.index_hash,
            runs=runs,
        )


class _Download:
    """A segment that is being downloaded in the background."""

    def __init__(self, trust: Trust, info: TargetFile) -> None:
        self._trust = trust
        self._info = info
        self._data = b""
        self._error: BaseException | None = None
        # Of its own and a daemon: Ctrl-C must not wait for a server.
        self._thread = threading.Thread(target=self._run, name=info.path, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._data = self._trust.download(self._info, MAX_SEGMENT_BYTES)
        except BaseException as error:  # noqa: BLE001 - it is raised again where it is waited for
            self._error = error

    def result(self) -> bytes:
        """Wait for it, and return its bytes or raise what went wrong."""
        self._thread.join()
        if self._error is not None:
            raise self._error
        return self._data


def _apply(writer: IndexWriter, guard: PoisonGuard, segment: Segment, data: bytes) -> None:
    if segment.kind == "add":
        for batch in parse_add_segment(data, segment):
            guard.check(batch)
            writer.add(batch)
    else:
        for ids in parse_withdraw_segment(data, segment):
            writer.withdraw(ids)


def _adds_up(writer: IndexWriter, index: ListIndex) -> bool:
    return writer.entries == index.entries and f"{writer.checksum:016x}" == index.checksum


def _delta(generation: int, index: ListIndex) -> list[Segment] | None:
    """Return the segments that lead from `generation` to `index`, None if one straddles it."""
    if any(s.first <= generation < s.last for s in index.segments):
        return None
    return [s for s in index.segments if s.first > generation]


def _refuse_rollback(manifest: Manifest, index: ListIndex) -> None:
    if index.generation < manifest.generation:
        raise VerificationError(
            f"list {index.list}: generation {index.generation} is older than"
            f" {manifest.generation}, which is here",
            hint="nothing was changed; tell the provider",
        )
    same = (index.entries, index.checksum) == (manifest.entries, manifest.checksum)
    if index.generation == manifest.generation and not same:
        raise VerificationError(
            f"list {index.list}: generation {index.generation} was published again with other"
            " entries",
            hint="nothing was changed; tell the provider",
        )


def _load_current(directory: Path) -> Manifest | None:
    try:
        return load_manifest(directory)
    except DamagedError:
        return None


def _read_staging(directory: Path) -> _Staging | None:
    try:
        return msgspec.json.decode((directory / STAGING_NAME).read_bytes(), type=_Staging)
    except (OSError, ValueError):
        return None


def _tidy(directory: Path, *, keep_staging: bool = False) -> None:
    """Remove what neither the manifest nor, with `keep_staging`, an unfinished build names."""
    try:
        manifest = load_manifest(directory)
    except StateError:
        return  # a later fetch builds the list again, and then knows what is not needed
    keep = {run.name for run in manifest.runs} if manifest else set()
    staging = _read_staging(directory) if keep_staging else None
    if staging is not None:
        keep |= {run.name for run in staging.partial.runs}
    else:
        with contextlib.suppress(OSError):
            (directory / STAGING_NAME).unlink(missing_ok=True)
    sweep(directory, frozenset(keep))


def load_pinned_root(settings: Settings, provider: str) -> bytes:
    """Return the root that was pinned for `provider`, if it is still the one.

    Raises:
        StateError: it is missing or not the one that the configuration names.
    """
    path = settings.trust_dir(provider) / PINNED_ROOT_NAME
    try:
        root = path.read_bytes()
    except OSError as error:
        raise state_error("cannot read pinned root", path, error) from error
    if hashlib.sha256(root).hexdigest() != settings.provider(provider).root_sha256:
        raise StateError(
            f"pinned root is not the one that the configuration names: {printable(path)}",
            hint=f"remove provider {provider} from the configuration and run `hashclient init`",
        )
    return root


def access_of(provider: ProviderConfig) -> Access:
    """Return how the transport gets in to `provider`.

    Raises:
        ConfigError: its settings contradict each other.
    """
    oauth = None
    if provider.oauth is not None:
        oauth = OAuth(
            token_url=provider.oauth.token_url,
            client_id=provider.oauth.client_id,
            client_secret_file=_path(provider.oauth.client_secret_file),
            client_secret_env=provider.oauth.client_secret_env,
            scope=provider.oauth.scope,
            ca=_path(provider.oauth.ca),
        )
    return Access(
        url=provider.url,
        token_file=_path(provider.token_file),
        token_env=provider.token_env,
        token_credential=provider.token_credential,
        basic_file=_path(provider.basic_file),
        oauth=oauth,
        client_cert=_path(provider.client_cert),
        client_key=_path(provider.client_key),
        ca=_path(provider.ca),
        proxy=provider.proxy,
        proxy_basic_file=_path(provider.proxy_basic_file),
        allow_http=provider.allow_http,
    )


def _path(text: str | None) -> Path | None:
    return None if text is None else user_path(text)
