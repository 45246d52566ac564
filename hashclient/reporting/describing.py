"""Makes the document of a report from matches and stories; `packages.document` has its form."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime

import msgspec

from hashclient.configfile.tables import ReportConfig
from hashclient.core.match import Match, Step, was_viewed
from hashclient.core.model import ENTRY_FIELDS, Hit, hit_fields
from hashclient.core.version import __version__
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
)
from hashclient.system.text import path_fields


class Sealed(msgspec.Struct, frozen=True):
    """The sealed files of one match: its own, facts about its source, and what belongs to it."""

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
    """Return the document about `matches`, given with their stories.

    `machine` is the name of this machine. `sealed` has the sealed files, by match; `provider_of`
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
        in_place=match.in_place,
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
    """Return which facts about the reporter are not configured."""
    facts = {"organisation": reporter.organisation, "contact": reporter.contact}
    facts["email"] = reporter.email
    return [f"{name} of [report] is not set" for name, fact in facts.items() if not fact]


def encode_document(document: Document) -> bytes:
    """Return the document as JSON that people can read, too."""
    return msgspec.json.format(msgspec.json.encode(document), indent=2) + b"\n"
