"""Shared by the formats: the fields of outcomes, entries and summaries, and sentences about a run.

`docs/jsonl.schema.json` specifies the output of `jsonl`; other formats use the same names of
fields. All formats use the same words for each reason why a run is not complete: an interruption,
missing lists, gaps of a lookup.
"""

from __future__ import annotations

import base64
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

import msgspec

from hashclient.core.errors import ExitCode
from hashclient.core.kinds import Kind
from hashclient.core.model import (
    ENTRY_FIELDS,
    LOGGED_FIELDS,
    Acted,
    Gap,
    Handled,
    HeldEntry,
    Hit,
    MatchRef,
    MissingList,
    Outcome,
    hit_fields,
)
from hashclient.core.verdict import Summary
from hashclient.formats.cells import words
from hashclient.system.text import counted, for_people, for_programs, path_fields, printable

if TYPE_CHECKING:
    from hashclient.formats.registry import Context

#: At most this many entries with held matches are named.
HELD_ENTRIES = 50
#: The number of a command's paths that are named in a sentence.
_MOST_PATHS = 3
#: How people see an empty path; a shell gives an empty path for a variable that is not set.
NO_NAME = "''"


def file_fields(handled: Handled) -> dict[str, Any]:
    """Return the file of an outcome, and its entry in the record of matches."""
    outcome = handled.outcome
    fields: dict[str, Any] = {**path_fields(outcome.place), **member_fields(outcome)}
    fields["size"] = outcome.size
    if outcome.evidence is not None:
        fields["evidence"] = outcome.evidence
    if outcome.mail is not None:
        fields["mail"] = msgspec.to_builtins(outcome.mail)
    if handled.record is not None:
        fields.update(record_fields(handled.record))
    return fields


def member_fields(outcome: Outcome) -> dict[str, Any]:
    """Return the names of a member of a container, the outermost first, and the container's path.

    `members_b64` holds the bytes of the names if a name is not UTF-8.
    """
    if not outcome.members:
        return {}
    outer = {key.replace("path", "container"): v for key, v in path_fields(outcome.path).items()}
    shown = [path_fields(name) for name in outcome.members]
    fields: dict[str, Any] = {**outer, "members": [name["path"] for name in shown]}
    if any("path_b64" in name for name in shown):
        raw = (os.fsencode(name) for name in outcome.members)
        fields["members_b64"] = [base64.b64encode(name).decode() for name in raw]
    return fields


def record_fields(record: MatchRef) -> dict[str, Any]:
    """Return the id of a match, and its history so far."""
    return {
        "id": record.id,
        "state": str(record.state),
        "in_place": record.in_place,
        "first_seen": for_programs(record.first_seen),
        "last_seen": for_programs(record.last_seen),
    }


def entry_fields(hit: Hit) -> dict[str, Any]:
    """Return which entry was hit; `complete` is only there if some of its digests disagree."""
    return hit_fields(hit, entry_names(hit))


def entry_names(hit: Hit) -> tuple[str, ...]:
    """Return the names of these fields."""
    return ENTRY_FIELDS if hit.complete else LOGGED_FIELDS


def agreement(hit: Hit) -> str:
    """Return which digests agree with an entry, and whether others do not, in words."""
    verb = "agrees" if len(hit.algorithms) == 1 else "agree"
    others = "" if hit.complete else ", others do not"
    return f"{', '.join(a.label for a in hit.algorithms)} {verb}{others}"


def digest_fields(outcome: Outcome) -> dict[str, str]:
    """Return the digests of an outcome by algorithm; only for users who have asked for them."""
    return {a.label: digest.hex() for a, digest in sorted(outcome.digests.items())}


def action_fields(acted: Acted) -> dict[str, Any]:
    """Return the result of one action; `done` is null if only the policy was asked."""
    return {"action": str(acted.action), "done": acted.done, "detail": acted.detail}


def done_word(acted: Acted) -> str:
    """Return whether an action was done, in one word."""
    return {True: "yes", False: "no", None: "planned"}[acted.done]


def run_fields(context: Context) -> dict[str, Any]:
    """Return where, by whom, for which paths and when a command was called."""
    about = context.about
    if about is None:
        return {}
    directory = {} if about.directory is None else path_fields(about.directory)
    return {
        "started": for_programs(context.now.replace(microsecond=0)),
        "host": about.host,
        "user": words(about.user),
        **{key.replace("path", "directory"): value for key, value in directory.items()},
        "paths": [path_fields(path) for path in about.paths],
        **({"paths_omitted": about.omitted} if about.omitted else {}),
    }


def run_text(context: Context) -> str | None:
    """Return the same facts as a sentence for people; None if they are not known."""
    about = context.about
    if about is None:
        return None
    paths = ", ".join(printable(path) or NO_NAME for path in about.paths[:_MOST_PATHS])
    if more := len(about.paths[_MOST_PATHS:]) + about.omitted:
        paths += f" and {more:,} more"
    what = f"{context.command} of {paths}" if paths else context.command
    where = "a directory that is gone" if about.directory is None else printable(about.directory)
    return f"{what} by {words(about.user)} on {words(about.host)}, in {where}"


def skipped_text(summary: Summary) -> str | None:
    """Return how many inputs were skipped, and why; None if no input was."""
    return _by_reason(summary, Kind.SKIPPED, summary.skipped)


def excepted_text(summary: Summary) -> str | None:
    """Return how many matches were excepted, and by which rulings; None if no match was."""
    return _by_reason(summary, Kind.EXCEPTED, summary.excepted)


def _by_reason(summary: Summary, kind: Kind, reasons: Mapping[str, int]) -> str | None:
    if not reasons:
        return None
    by_number = sorted(reasons.items(), key=lambda item: (-item[1], item[0]))
    shown = ", ".join(f"{words(reason)} {number:,}" for reason, number in by_number)
    return f"{kind} {summary.counts[kind]:,}: {shown}"


#: Plurals of kinds; a kind that is no noun stays as it is.
_NOUNS = {Kind.MATCH: "match", Kind.CONFLICT: "conflict"}
#: Kinds that are named only if an outcome has them.
_RARE = (Kind.ACCEPTED, Kind.EXCEPTED)


def counts_text(summary: Summary) -> str:
    """Return how many inputs of each kind a run had."""
    counts = (
        counted(summary.counts[kind], _NOUNS[kind])
        if kind in _NOUNS
        else f"{summary.counts[kind]:,} {kind}"
        for kind in Kind
        if kind not in _RARE or summary.counts[kind]
    )
    return f"{counted(summary.inputs, 'input')}: {', '.join(counts)}"


def summary_fields(summary: Summary) -> dict[str, Any]:
    """Return the counts of a run, its evidence, its lists, its end, and the exit code."""
    return {
        "inputs": summary.inputs,
        **{str(kind): summary.counts[kind] for kind in Kind},
        "skipped_by_reason": dict(sorted(summary.skipped.items())),
        **({"excepted_by": dict(sorted(summary.excepted.items()))} if summary.excepted else {}),
        "files_read": summary.files_read,
        "bytes_read": summary.bytes_read,
        "ruled_out_by_size": summary.ruled_out_by_size,
        **(
            {"objects": summary.objects, "by_store_digest": summary.by_store_digest}
            if summary.asks_stores
            else {}
        ),
        "known_unchanged": summary.known_unchanged,
        "believed_unchanged": summary.believed_unchanged,
        "gone": summary.gone,
        "held": summary.held,
        **({"held_entries": held_fields(summary.held_entries)} if summary.held_entries else {}),
        **_inside_fields(summary),
        "elapsed_s": round(summary.elapsed_s, 3),
        "lists": [
            {"name": s.name, "generation": s.generation, "fresh": s.fresh}
            | ({"in_grace": True} if s.in_grace else {})
            for s in summary.lists
        ],
        "missing_lists": [
            {"name": m.name, "provider": m.provider, "problem": m.problem} for m in summary.missing
        ],
        "gaps": [gap_fields(gap) for gap in summary.gaps],
        "gaps_accepted": summary.gaps_accepted,
        "interrupted": summary.stopped is not None,
        **({} if summary.stopped is None else {"interrupted_by": signal_name(summary.stopped)}),
        **({} if summary.failed is None else {"failure": failure_text(summary)}),
        "exit_code": int(summary.exit_code),
    }


def held_fields(entries: Sequence[HeldEntry]) -> list[dict[str, Any]]:
    """Return the entries with held matches, and their counts."""
    return [msgspec.structs.asdict(entry) for entry in entries]


def held_texts(summary: Summary) -> list[str]:
    """Return a sentence for each entry with held matches, if this run has held matches."""
    if not summary.held:
        return []
    texts = [entry.text for entry in summary.held_entries[:HELD_ENTRIES]]
    if summary.held_entries[HELD_ENTRIES:]:
        texts.append("matches of more entries are held: `hashclient matches --state held`")
    return texts or [f"held, waiting for a person: {counted(summary.held, 'match')}"]


def _inside_fields(summary: Summary) -> dict[str, Any]:
    """Return the counts of members of containers, if the run can have them."""
    if summary.opens_containers is None:
        return {}
    return {
        "opens_containers": summary.opens_containers,
        "members": summary.members,
        "members_read": summary.members_read,
        "ruled_out_by_claim": summary.ruled_out_by_claim,
        "not_opened": dict(sorted(summary.not_opened.items())),
    }


def gap_fields(gap: Gap) -> dict[str, Any]:
    """Return the gap of a lookup for one list."""
    return {
        "list": gap.list_name,
        "algorithms": [a.label for a in gap.algorithms],
        "entries": gap.entries,
        "live": gap.live,
        "rows": gap.rows,
    }


def signal_name(stopped: ExitCode) -> str:
    """Return the signal that ended a run early."""
    return "SIGTERM" if stopped is ExitCode.TERMINATED else "SIGINT"


#: The words for a list whose expiry is not known, since the clock cannot be right.
EARLY = "the clock is behind the last check"


class Remark(msgspec.Struct, frozen=True):
    """A reason why a run is not complete: a word, a sentence, and perhaps a list."""

    subject: str
    text: str
    list_name: str = ""
    generation: str = ""
    algorithms: str = ""


def remarks(summary: Summary, written: Callable[[datetime], str] = for_people) -> Iterator[Remark]:
    """Yield all reasons why a run is not complete, in the order that every format uses.

    New reasons are added here. Times are as `written` writes them.
    """
    for missing in summary.missing:
        yield Remark("missing", missing_text(missing), missing.name or "")
    for state in summary.lists:
        if not state.fresh:
            grace = ", in its grace period" if state.in_grace else ""
            text = f"list {state.name} expired {written(state.expires)}{grace}"
            if state.is_early:
                text = f"list {state.name} counts as stale: {EARLY}"
            yield Remark("stale", text, state.name, str(state.generation))
    for gap in summary.gaps:
        labels = " ".join(algorithm.label for algorithm in gap.algorithms)
        text = gap_text(gap, accepted=summary.gaps_accepted)
        yield Remark("gap", text, gap.list_name, algorithms=labels)
    yield from (Remark("held", text) for text in held_texts(summary))
    if summary.stopped is not None:
        signal = signal_name(summary.stopped)
        text = f"interrupted by {signal}: the remaining inputs were not checked"
        yield Remark("interrupted", text)
    if (failure := failure_text(summary)) is not None:
        yield Remark("failed", failure)


def failure_text(summary: Summary) -> str | None:
    """Return the failure besides the inputs: the error's words, or the meaning of its exit code."""
    if summary.failed is None or summary.failure is not None:
        return summary.failure
    return f"exit code {int(summary.failed)}: {summary.failed.meaning}"


def missing_text(missing: MissingList) -> str:
    """Return the sentence on a missing list, with the reason."""
    if missing.name is not None:
        return f"list {missing.name} is missing: {missing.problem}"
    return f"the lists of provider {missing.provider} are missing: {missing.problem}"


def gap_text(gap: Gap, *, accepted: bool) -> str:
    """Return the sentence on the gap of a list, and how its inputs count."""
    count = "counts" if gap.rows == 1 else "count"
    end = f"{count} as clean all the same, since gaps are accepted"
    if not accepted:
        end = f"cannot be distinguished from {'it' if gap.entries == 1 else 'them'}"
    return f"{gap.text}; {counted(gap.rows, 'input')} {end}"


def inside_text(summary: Summary) -> str | None:
    """Return the sentence on the members of containers; None if a run has none."""
    if summary.opens_containers is None:
        return None
    if not summary.opens_containers:
        # Only scans of objects have --no-read, which reads no object.
        may_not_read = summary.asks_stores and not summary.files_read
        why = "--no-members or --no-read" if may_not_read else "--no-members"
        return f"archives and mail were not opened: {why}"
    if not summary.members:
        return None
    nouns = "input was" if summary.members == 1 else "inputs were"
    return f"{summary.members:,} {nouns} in archives or mail, {summary.members_read:,} of them read"


def not_opened_text(summary: Summary) -> str | None:
    """Return how many inputs are of unopened kinds that contain files; None if no input is."""
    if not summary.not_opened:
        return None
    by_number = sorted(summary.not_opened.items(), key=lambda item: (-item[1], item[0]))
    kinds = ", ".join(f"{kind} {number:,}" for kind, number in by_number)
    return f"not opened {sum(summary.not_opened.values()):,}, their content is not known: {kinds}"


def rests_on(summary: Summary) -> str:
    """Return the evidence of answers other than reading; empty if everything was read."""
    parts = {
        "ruled out by size": summary.ruled_out_by_size,
        "ruled out by a claimed size": summary.ruled_out_by_claim,
        "decided by a digest of their store": summary.by_store_digest,
        "known unchanged": summary.known_unchanged,
        "of them believed unchanged": summary.believed_unchanged,
    }
    return ", ".join(f"{number:,} {what}" for what, number in parts.items() if number)
