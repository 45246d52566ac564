"""Makes the document of a report, which describes each match and the sealed copies of its file."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path

import msgspec

from hashclient.config.tables import ReportConfig
from hashclient.core.agefile import Chunks
from hashclient.core.errors import StateError
from hashclient.core.kinds import MatchState
from hashclient.core.match import Match, Step, was_viewed
from hashclient.core.model import ENTRY_FIELDS, Hit, hit_fields
from hashclient.core.version import __version__
from hashclient.index.blinding import Sealer
from hashclient.packages.document import (
    FORMAT,
    Context,
    Document,
    Entry,
    Evidence,
    Provider,
    ReportedMatch,
    Reporter,
    StoryStep,
    Tool,
    context_name,
    evidence_name,
)
from hashclient.quarantine.age import parse_recipients
from hashclient.quarantine.evidence import find_item, source_in_place
from hashclient.quarantine.item import Belonging, Item
from hashclient.quarantine.sealing import seal_stream
from hashclient.system.files import atomic_file
from hashclient.system.text import path_fields


class Sealed(msgspec.Struct, frozen=True):
    """The sealed files of one match: the matched file, facts about its source, and added files."""

    evidence: Evidence | None = None
    facts: Evidence | None = None
    context: tuple[Context, ...] = ()


_NOTHING = Sealed()


def make_document(
    report_id: str,
    now: datetime,
    config: ReportConfig,
    machine: str,
    matches: Sequence[tuple[Match, Sequence[Step]]],
    sealed: Mapping[str, Sealed],
    provider_of: Callable[[str], Provider | None],
) -> Document:
    """Return the document about `matches`, each with its history.

    `machine` is the name of this machine. `sealed` are the sealed files by match id. `provider_of`
    returns the provider of a list.
    """
    return Document(
        FORMAT,
        report_id,
        now,
        Reporter(config.organisation, machine, config.contact, config.email),
        Tool("hashclient", __version__),
        tuple(
            _reported(match, story, sealed.get(match.id, _NOTHING), provider_of)
            for match, story in matches
        ),
    )


def _reported(
    match: Match,
    story: Sequence[Step],
    sealed: Sealed,
    provider_of: Callable[[str], Provider | None],
) -> ReportedMatch:
    path = path_fields(match.path)
    return ReportedMatch(
        id=match.id,
        path=path["path"],
        path_b64=path.get("path_b64"),
        size=match.size,
        first_seen=match.first_seen,
        last_seen=match.last_seen,
        state=str(match.state),
        viewed=was_viewed(story),
        in_place=match.in_place and match.state is not MatchState.GONE,
        entries=tuple(_entry(hit, provider_of) for hit in match.hits),
        evidence=sealed.evidence,
        facts=sealed.facts,
        context=sealed.context,
        story=tuple(StoryStep(step.time, step.event, dict(step.detail)) for step in story),
    )


def _entry(hit: Hit, provider_of: Callable[[str], Provider | None]) -> Entry:
    fields = hit_fields(hit, (*ENTRY_FIELDS, "withdrawn_generation"))
    provider = msgspec.to_builtins(provider_of(hit.list_name))
    return msgspec.convert({**fields, "provider": provider}, Entry)


def missing_about(reporter: Reporter) -> list[str]:
    """Return messages about settings of the reporter that are missing in the configuration."""
    facts = {"organisation": reporter.organisation, "contact": reporter.contact}
    facts["email"] = reporter.email
    return [f"{name} of [report] is not set" for name, fact in facts.items() if not fact]


def encode_document(document: Document) -> bytes:
    """Return the document as indented JSON."""
    return msgspec.json.format(msgspec.json.encode(document), indent=2) + b"\n"


def sealed_items(
    quarantine_dir: Path, ids: Iterable[str], *, with_context: bool
) -> dict[str, Sealed]:
    """Return the sealed files in quarantine of the matches `ids`, by match id.

    Raises:
        StateError: an item cannot be read, or is damaged.
    """
    items = {match_id: find_item(quarantine_dir, match_id) for match_id in ids}
    return {
        i: _sealed(item, item.context if with_context else ())
        for i, item in items.items()
        if item is not None
    }


def _sealed(item: Item, context: Sequence[Belonging]) -> Sealed:
    name = evidence_name(item.id)
    evidence = Evidence(name, item.evidence_sha256, item.evidence_bytes, item.recipients)
    return Sealed(
        evidence,
        context=tuple(
            Context(
                context_name(item.id, number),
                one.evidence_sha256,
                one.evidence_bytes,
                one.recipients,
                one.path,
                one.path_b64,
            )
            for number, one in enumerate(context, 1)
        ),
    )


def seal_in_place(
    match: Match, path: Path, recipients: Sequence[str], sealer: Sealer
) -> Evidence | str:
    """Seal the file of a match into `path`, without removing the file; return the sealed copy.

    If the sealed copy cannot be made, because the file is missing or cannot be proven, return the
    reason as a text.

    Raises:
        StateError: the copy cannot be written.
        ConfigError: a text in `recipients` is not a public key.
    """
    keys = parse_recipients(recipients)
    with contextlib.ExitStack() as stack:
        try:
            proven = stack.enter_context(source_in_place(match, sealer))
        except StateError as error:
            return error.message
        stream = stack.enter_context(atomic_file(path))
        written = seal_stream(Chunks(proven.chunks()).read, stream.write, keys)
    name = evidence_name(match.id)
    return Evidence(name, written.sha256, written.length, tuple(recipients))
