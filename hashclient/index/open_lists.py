"""Decides which lists should be on this machine, and which of them can be used.

Only this module has the rule for which lists should be on this machine. For each provider in the
configuration, the lists in its key `lists` should be on this machine; if `lists` is not set, the
lists that the provider's last verified metadata delegates. Every list with a folder below `lists/`
should be on this machine, too. The lists on this machine may have been fetched with another
configuration. So the rule also applies to a provider that the configuration does not name, if the
state directory has its folder below `trust/` or one of its lists. Each manifest also names the
lists that its provider offered, and the seal key authenticates the manifest. A list is missing if
it should be on this machine and cannot be used. Scans and lookups continue with the other lists,
and name the missing list; `status` shows the missing list.

This module reads the metadata that python-tuf has stored. python-tuf verified the metadata when it
stored it; this module does not verify the metadata again, and does not load the modules for
verification. If somebody removes a list from the metadata, the manifests of the provider's other
lists still name the list.
"""

import contextlib
import os
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Literal

import msgspec

from hashclient.config.settings import Settings
from hashclient.core.errors import ConfigError, StateError
from hashclient.core.model import MAX_LISTS, MissingList, Time, is_name
from hashclient.core.staleness import ListState
from hashclient.index.blinding import Sealer, load_sealer
from hashclient.index.manifest import Manifest, OtherKeyError, load_manifest, read_manifest
from hashclient.index.matcher import Judge
from hashclient.index.reader import Index, list_folders, open_index
from hashclient.system.files import read_regular, state_error
from hashclient.system.layout import DENIED_NAME, TARGETS_NAME, TIMESTAMP_NAME
from hashclient.system.log import Log
from hashclient.system.text import printable

_log = Log("lists")

#: The largest length of a file of metadata in bytes; python-tuf has this limit for targets.
MAX_TARGETS_BYTES = 5_000_000

#: The message about a list that has no folder.
NEVER = "has never been fetched"

FETCH_HINT = (
    "run `hashclient fetch`; if you do not want this list any more, name all other lists in "
    "`lists = […]` of its provider's configuration and remove its folder in the state directory"
)
BARE_HINT = "run `hashclient fetch`, or remove its table from the configuration"
OFFERS_NOTHING_HINT = "ask the provider, or remove its table from the configuration"
SHARED_HINT = (
    "name the list in `lists = […]` of the provider to take it from; if this is another provider "
    "than before, remove its folder in the state directory and run `hashclient fetch`"
)
METADATA_HINT = (
    "run `hashclient fetch`, or name the lists in `lists = […]` of the provider's configuration"
)
UNCONFIGURED_HINT = (
    "the configuration that was read does not contain its provider: name the right configuration "
    "with --config; if you do not want the provider any more, remove its folder in trust/ and the "
    "folders of its lists in lists/"
)


class _Role(msgspec.Struct, frozen=True):
    name: str


class _Delegations(msgspec.Struct, frozen=True):
    roles: tuple[_Role, ...]


class _Signed(msgspec.Struct, frozen=True):
    type: Literal["targets"] = msgspec.field(name="_type")
    delegations: _Delegations | None = None
    ended: tuple[str, ...] = msgspec.field(default=(), name="hashclient-ended")


class _Targets(msgspec.Struct, frozen=True):
    signed: _Signed


class _SignedTimestamp(msgspec.Struct, frozen=True):
    type: Literal["timestamp"] = msgspec.field(name="_type")
    expires: Time


class _Timestamp(msgspec.Struct, frozen=True):
    signed: _SignedTimestamp


class ExpectedList(msgspec.Struct, frozen=True):
    """A list that should be on this machine.

    If the list can be used, `index` is set, otherwise `error` is set.

    `name` is None if it is not known which lists `provider` has; `provider` is None if the provider
    of the list is not known. `short`: the problem in a few words, if the message of `error` is
    longer.
    """

    name: str | None
    provider: str | None
    index: Index | None = None
    error: StateError | None = None
    short: str | None = None

    @property
    def problem(self) -> str:
        """The fault of the list, without the name of the list."""
        return self.short or (self.error.message if self.error else "")

    @property
    def hint(self) -> str:
        """Advice about the fault of the list."""
        return (self.error.hint if self.error else None) or FETCH_HINT

    @property
    def text(self) -> str:
        """The fault of the list, as a whole sentence."""
        message = self.error.message if self.error else ""
        if message.startswith(("list ", "provider ")):
            return message
        owner = f"provider {self.provider}" if self.name is None else f"list {self.name}"
        return f"{owner}: {message}"


class OpenLists(msgspec.Struct, frozen=True):
    """The lists of a state directory: lists that can be used, open for one run, and unusable lists.

    `also`: the algorithms that are computed in addition for an input that hits an entry, see
    `Judge`.
    """

    indexes: tuple[Index, ...]
    states: tuple[ListState, ...]
    sealer: Sealer
    unusable: tuple[ExpectedList, ...] = ()
    also: int = 0

    @property
    def missing(self) -> tuple[MissingList, ...]:
        """The lists that should be on this machine and cannot be used, for a summary."""
        return tuple(MissingList(e.name, e.provider, e.problem) for e in self.unusable)

    @property
    def stale(self) -> bool:
        """Whether any list is past its expiry."""
        return any(state.stale for state in self.states)

    def judge(self, *, all_digests: bool = False) -> Judge:
        """Return a `Judge` for all lists that can be used; `Judge` explains `all_digests`."""
        return Judge(self.indexes, self.sealer, all_digests=all_digests, also=self.also)


def open_lists(settings: Settings, environ: Mapping[str, str], now: datetime) -> OpenLists:
    """Open every list that should be on this machine, without a lock and without writing a file.

    Lists that cannot be used are in `unusable`, if at least one list can be used. The seal key may
    be in `environ`, see `load_sealer`.

    Raises:
        StateError: no list can be used, or there is no seal key.
        ConfigError: the seal key is missing or malformed.
    """
    sealer, problem = None, None
    try:
        sealer = load_sealer(settings.state_dir, settings.seal_key_file, environ)
    except (ConfigError, StateError) as error:
        problem = error
    expected = expected_lists(settings, sealer)
    indexes = tuple(entry.index for entry in expected if entry.index is not None)
    if not indexes:
        raise _nothing_usable(settings, expected)
    if sealer is None:
        assert problem is not None
        raise problem
    manifests = [index.manifest for index in indexes]
    states = tuple(of.state(now, settings.grace(of.provider)) for of in manifests)
    unusable = tuple(entry for entry in expected if entry.error is not None)
    for index, state in zip(indexes, states, strict=True):
        _log.info(
            "list %s: generation %d, %d entries in %d runs, fresh: %s",
            *(state.name, state.generation, index.manifest.entries),
            *(len(index.manifest.runs), state.fresh),
        )
    for entry in unusable:
        _log.info("cannot be used: %s", entry.text)
    return OpenLists(indexes, states, sealer, unusable)


def states_after(lists: OpenLists, settings: Settings, now: datetime) -> tuple[ListState, ...]:
    """Return the states of the lists of a run that ends `now`.

    A list that has become stale during the run is stale, unless a fetch has renewed it meanwhile.
    """
    states = []
    for index, state in zip(lists.indexes, lists.states, strict=True):
        manifest, grace = index.manifest, settings.grace(index.manifest.provider)
        after = manifest.state(now, grace)
        if after.stale and not state.stale:
            newest: Manifest | None = None
            with contextlib.suppress(StateError):
                newest = load_manifest(settings.layout.lists / manifest.list, lists.sealer)
            if newest is None or _bounded(settings, newest).state(now, grace).stale:
                state = after
        states.append(state)
    return tuple(states)


def _nothing_usable(settings: Settings, expected: Sequence[ExpectedList]) -> StateError:
    for entry in expected:
        if entry.name is not None and entry.error is not None:
            return entry.error
    return StateError(
        "no list has been fetched",
        hint="run `hashclient fetch` first"
        if settings.config.providers
        else "run `hashclient init URL --root ROOT.json` and `hashclient fetch` first",
    )


def expected_lists(
    settings: Settings, sealer: Sealer | None, *, verify: bool = False
) -> list[ExpectedList]:
    """Open every list that should be on this machine; a list that cannot be used has an error.

    Items without a list name come first; each stands for a provider whose lists are not known. A
    list whose manifest fails verification with the key of `sealer` cannot be used. Without a key,
    no list is verified, and no lookup is possible. With `verify`, every index is read whole and
    compared with its digests.

    Raises:
        StateError: the folder of all lists cannot be read.
    """
    wanted: dict[str, list[str]] = {name: [] for name in list_folders(settings.layout.lists)}
    doubtful: list[ExpectedList] = []
    bare: list[str] = []
    for provider, config in sorted(settings.config.providers.items()):
        try:
            names = _named(settings, provider, config.lists)
        except StateError as error:
            short = f"it is not known which lists it offers: {error.message}"
            doubtful.append(ExpectedList(None, provider, error=error, short=short))
            continue
        if names is None:
            bare.append(provider)
        elif not names:
            doubtful.append(_of_provider(provider, "no list is offered", OFFERS_NOTHING_HINT))
        for name in dict.fromkeys(names or ()):
            wanted.setdefault(name, []).append(provider)
    named = [
        entry
        for name, providers in sorted(wanted.items())
        for entry in _open(settings.layout.lists / name, name, providers, sealer, verify=verify)
    ]
    here = {entry.provider for entry in named}
    for entry in named:
        if entry.index is not None:
            entry.index.manifest = _bounded(settings, entry.index.manifest)
    for provider in _unconfigured(settings, here):
        try:
            names = _delegated_by(settings, provider)
        except StateError as error:
            short = f"it is not known which lists it offers: {error.message}"
            error.hint = UNCONFIGURED_HINT
            doubtful.append(ExpectedList(None, provider, error=error, short=short))
            continue
        for name in sorted(set(names or ()) - wanted.keys()):
            wanted[name] = [provider]
            named.append(_of_list(name, provider, NEVER, "never fetched", UNCONFIGURED_HINT))
    named += _left_out(settings, named, wanted)
    named.sort(key=lambda entry: entry.name or "")
    for provider in bare:
        if provider in here:
            problem = "its metadata is not here, so it is not known which lists it offers"
            doubtful.append(_of_provider(provider, problem, METADATA_HINT))
        else:
            doubtful.append(_of_provider(provider, "no list was ever fetched", BARE_HINT))
    return [*doubtful, *named]


def _named(
    settings: Settings, provider: str, lists: tuple[str, ...] | None
) -> tuple[str, ...] | None:
    """Return the lists that should be on this machine of a provider whose `lists` are set.

    Lists that the provider has ended are left out.
    """
    path = settings.layout.metadata(provider) / TARGETS_NAME
    if not lists:
        return delegated_lists(path)
    try:
        ended = msgspec.json.decode(read_regular(path, MAX_TARGETS_BYTES), type=_Targets)
    except (OSError, ValueError, RecursionError):
        # without readable targets it is not known which lists have ended, so no list is left out
        return lists
    return tuple(name for name in lists if name not in ended.signed.ended)


def _left_out(
    settings: Settings, named: Sequence[ExpectedList], wanted: Collection[str]
) -> list[ExpectedList]:
    """Return the lists that a manifest in `named` offers and that are not in `wanted`.

    For each provider, only the manifest that was checked last is used, because earlier offers are
    outdated.
    """
    newest: dict[str, Manifest] = {}
    for entry in named:
        if entry.index is not None:
            manifest = entry.index.manifest
            before = newest.get(manifest.provider)
            if before is None or before.checked_at < manifest.checked_at:
                newest[manifest.provider] = manifest
    found = []
    for provider, manifest in newest.items():
        config = settings.config.providers.get(provider)
        if config is None or not config.lists:
            hint = UNCONFIGURED_HINT if config is None else FETCH_HINT
            found += [
                _of_list(name, provider, NEVER, "never fetched", hint)
                for name in manifest.offered
                if is_name(name) and name not in wanted
            ]
    return found


def _delegated_by(settings: Settings, provider: str) -> tuple[str, ...] | None:
    return delegated_lists(settings.layout.metadata(provider) / TARGETS_NAME)


def delegated_lists(path: Path) -> tuple[str, ...] | None:
    """Return the names of the lists that a provider's metadata delegates; None without metadata.

    Lists that the provider's server refused to our credential at the last fetch are left out.

    Raises:
        StateError: the metadata cannot be read, or a fetch would not have accepted it.
    """
    try:
        data = read_regular(path, MAX_TARGETS_BYTES)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise state_error("cannot read metadata", path, error) from error
    damaged = StateError(f"metadata is damaged: {printable(path)}", hint=METADATA_HINT)
    try:
        delegations = msgspec.json.decode(data, type=_Targets).signed.delegations
    except (ValueError, RecursionError) as error:
        raise damaged from error
    names = () if delegations is None else tuple(role.name for role in delegations.roles)
    if not all(map(is_name, names)):
        raise damaged
    if len(names) > MAX_LISTS:
        raise StateError(
            f"metadata offers {len(names):,} lists, more than {MAX_LISTS}: {printable(path)}",
            hint=METADATA_HINT,
        )
    denied = denied_lists(path.parent.parent / DENIED_NAME)
    return tuple(name for name in names if name not in denied)


def denied_lists(path: Path) -> frozenset[str]:
    """Return the names of the lists that a provider's server has refused to this client.

    Nothing verifies the file of refused lists. A list is always expected if it is on this machine,
    or if the manifest of another list offers it, so a forged file can hide only lists that were
    never on this machine.
    """
    try:
        return frozenset(msgspec.json.decode(read_regular(path, MAX_TARGETS_BYTES), type=list[str]))
    except (OSError, ValueError, RecursionError):
        # without the file, refused lists are reported as missing until the next fetch writes the
        # file again
        return frozenset()


def known_lists(settings: Settings) -> frozenset[str] | None:
    """Return the names of all lists known on this machine, or None if they are not known.

    A list is known if the configuration names it, if a provider's verified metadata offers it, or
    if it is on this machine.

    Raises:
        StateError: the folder of all lists, or the folder of all providers, cannot be read.
    """
    names = set(list_folders(settings.layout.lists))
    configured = settings.config.providers
    for provider in [*configured, *_unconfigured(settings, ())]:
        lists = configured[provider].lists if provider in configured else None
        try:
            offered = _delegated_by(settings, provider)
        except StateError:
            offered = None
        if offered is None and lists is None:
            return None
        names.update(lists or (), offered or ())
    return frozenset(names)


def lists_of_unconfigured(settings: Settings, here: Iterable[Manifest]) -> frozenset[str] | None:
    """Return the lists of providers that the configuration does not name; None if not known.

    `here`: the manifests of the lists on this machine.

    Raises:
        StateError: the folder of trusted providers cannot be read.
    """
    names: set[str] = set()
    for manifest in here:
        if manifest.provider not in settings.config.providers:
            names.update(manifest.offered)
    for provider in _unconfigured(settings, ()):
        try:
            offered = _delegated_by(settings, provider)
        except StateError:
            return None
        if offered is None:
            return None
        names.update(offered)
    return frozenset(names)


def _bounded(settings: Settings, manifest: Manifest) -> Manifest:
    """Limit the freshness of a list to the freshness of its provider's last verified metadata.

    When a manifest is written, its expiry is not later than the expiry of the metadata. If the
    expiry of the manifest is later than the expiry of the metadata now, the provider has shortened
    the validity of its metadata since then. This function does not verify the metadata, so the
    metadata can only shorten the freshness of a list.
    """
    if not is_name(manifest.provider):
        return manifest
    path = settings.layout.metadata(manifest.provider) / TIMESTAMP_NAME
    try:
        data = read_regular(path, MAX_TARGETS_BYTES)
        until = msgspec.json.decode(data, type=_Timestamp).signed.expires
    except (OSError, ValueError, RecursionError):
        # the next fetch gets the metadata again; until the next fetch, only the manifest limits the
        # freshness
        return manifest
    return msgspec.structs.replace(manifest, expires=min(until, manifest.expires))


def _of_provider(provider: str, problem: str, hint: str) -> ExpectedList:
    error = StateError(f"provider {provider}: {problem}", hint=hint)
    return ExpectedList(None, provider, error=error, short=problem)


def _unconfigured(settings: Settings, here: Collection[str | None]) -> list[str]:
    """Return the providers that the state directory has but the configuration does not name.

    `here`: the providers of the lists on this machine.

    Raises:
        StateError: the folder of trusted providers cannot be read.
    """
    found = {provider or "" for provider in here}
    trusted = settings.layout.trust
    try:
        found.update(path.name for path in trusted.iterdir())
    except FileNotFoundError:
        pass
    except OSError as error:
        raise state_error("cannot read", trusted, error) from error
    # The disk may have garbled the name of a folder, so folders whose name cannot be that of a
    # provider are ignored.
    return sorted(filter(is_name, found - settings.config.providers.keys()))


def _of_list(
    name: str, provider: str | None, message: str, short: str, hint: str = FETCH_HINT
) -> ExpectedList:
    error = StateError(f"list {name} {message}", hint=hint)
    return ExpectedList(name, provider, error=error, short=short)


def _open(
    directory: Path,
    name: str,
    providers: Sequence[str],
    sealer: Sealer | None,
    *,
    verify: bool,
) -> Iterator[ExpectedList]:
    """Open one list, which `providers` offer; `providers` is empty if the list only has a folder.

    The result has one item for each provider that offers a list of this name, because the list of
    only one of them can be on this machine.
    """
    document, manifest, index = None, None, None
    try:
        document = read_manifest(directory)
        if document is not None:
            manifest = document.manifest if sealer is None else document.verify(sealer)
            index = open_index(directory, sealer, verify=verify)
            # `open_index` may have read a newer manifest than `read_manifest` above, so the opened
            # manifest is compared.
            if index is not None and index.manifest.list != name:
                raise StateError(
                    f"the folder of list {name} holds list {index.manifest.list}",
                    hint=f"remove {printable(directory)} and run `hashclient fetch`",
                )
    except OtherKeyError as error:
        assert document is not None
        short = "sealed with another key"
        yield ExpectedList(name, document.manifest.provider, error=error, short=short)
        return
    except StateError as error:
        owner = next(iter(providers), None) if manifest is None else manifest.provider
        yield ExpectedList(name, owner, error=error)
        return
    if index is None:
        there = os.path.lexists(directory)
        message = "is missing: its folder has no manifest" if there else NEVER
        short = "its folder has no manifest" if there else "never fetched"
        for provider in providers or (None,):
            yield _of_list(name, provider, message, short)
        return
    owner = index.manifest.provider
    yield ExpectedList(name, owner, index)
    for provider in providers:
        if provider != owner:
            short = f"was fetched from provider {owner}, not from {provider}"
            elsewhere = StateError(f"list {name} is {short}", hint=SHARED_HINT)
            yield ExpectedList(name, provider, error=elsewhere, short=short)
