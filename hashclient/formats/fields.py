"""Fields of outcomes, entries and summaries, and sentences about a run, which all formats use.

`docs/jsonl.schema.json` specifies the output of `jsonl`; the other formats use the same field
names. All formats have the same sentence for each reason why a run is not complete, such as an
interruption or a missing list.
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

#: The largest number of entries with held matches that an output names.
HELD_ENTRIES = 50
#: The number of a command's paths that a sentence names.
_MOST_PATHS = 3
#: The text for an empty path, which a shell passes for a variable that is not set.
NO_NAME = "''"


def file_fields(handled: Handled) -> dict[str, Any]:
    """Return the fields for the file of an outcome and for its recorded match."""
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
    """Return the fields for a member: its names, the outermost first, and the container's path.

    `members_b64` contains the bytes of the names if a name is not UTF-8.
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
    """Return the fields for a recorded match: its id, its state and its times."""
    return {
        "id": record.id,
        "state": str(record.state),
        "in_place": record.in_place,
        "first_seen": for_programs(record.first_seen),
        "last_seen": for_programs(record.last_seen),
    }


def entry_fields(hit: Hit) -> dict[str, Any]:
    """Return the fields for the entry that was hit; `complete` is included only if it is false."""
    return hit_fields(hit, entry_names(hit))


def entry_names(hit: Hit) -> tuple[str, ...]:
    """Return the names of the fields that `entry_fields` returns."""
    return ENTRY_FIELDS if hit.complete else LOGGED_FIELDS


def agreement(hit: Hit) -> str:
    """Return a text that says which digests agree with an entry, and whether others disagree."""
    verb = "agrees" if len(hit.algorithms) == 1 else "agree"
    others = "" if hit.complete else ", others do not"
    return f"{', '.join(a.label for a in hit.algorithms)} {verb}{others}"


def digest_fields(outcome: Outcome) -> dict[str, str]:
    """Return the digests of an outcome by algorithm.

    Callers show digests only to users who have asked for them.
    """
    return {a.label: digest.hex() for a, digest in sorted(outcome.digests.items())}


def action_fields(acted: Acted) -> dict[str, Any]:
    """Return the fields for the result of an action; `done` is null in a dry run."""
    return {"action": str(acted.action), "done": acted.done, "detail": acted.detail}


def done_word(acted: Acted) -> str:
    """Return whether an action was done, as a word."""
    return {True: "yes", False: "no", None: "planned"}[acted.done]


def run_fields(context: Context) -> dict[str, Any]:
    """Return the fields that say where, when, by whom and for which paths a command was called."""
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
    """Return a sentence on where, by whom and for which paths a command was called.

    The result is None if the caller of the command is not known.
    """
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
    """Return how many inputs were skipped and why, or None if no input was skipped."""
    return _by_reason(summary, Kind.SKIPPED, summary.skipped)


def excepted_text(summary: Summary) -> str | None:
    """Return how many matches were excepted and by which rulings, or None if none was."""
    return _by_reason(summary, Kind.EXCEPTED, summary.excepted)


def _by_reason(summary: Summary, kind: Kind, reasons: Mapping[str, int]) -> str | None:
    if not reasons:
        return None
    by_number = sorted(reasons.items(), key=lambda item: (-item[1], item[0]))
    shown = ", ".join(f"{words(reason)} {number:,}" for reason, number in by_number)
    return f"{kind} {summary.counts[kind]:,}: {shown}"


#: The kinds that are nouns in sentences and have a plural; other kinds are adjectives.
_NOUNS = {Kind.MATCH: "match", Kind.CONFLICT: "conflict"}
#: Kinds that are named only if an outcome of the kind exists.
_RARE = (Kind.ACCEPTED, Kind.EXCEPTED)


def counts_text(summary: Summary) -> str:
    """Return a sentence that says how many inputs of each kind a run had."""
    counts = (
        counted(summary.counts[kind], _NOUNS[kind])
        if kind in _NOUNS
        else f"{summary.counts[kind]:,} {kind}"
        for kind in Kind
        if kind not in _RARE or summary.counts[kind]
    )
    return f"{counted(summary.inputs, 'input')}: {', '.join(counts)}"


def summary_fields(summary: Summary) -> dict[str, Any]:
    """Return the fields for a run: counts, evidence, lists, end of the run, and exit code."""
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
    """Return the fields for the entries with held matches, with their counts."""
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
    """Return the fields for members of containers, if the run can have members."""
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
    """Return the fields for the entries of one list that a lookup could not rule out."""
    return {
        "list": gap.list_name,
        "algorithms": [a.label for a in gap.algorithms],
        "entries": gap.entries,
        "live": gap.live,
        "rows": gap.rows,
    }


def signal_name(stopped: ExitCode) -> str:
    """Return the name of the signal that ended a run early."""
    return "SIGTERM" if stopped is ExitCode.TERMINATED else "SIGINT"


#: The text for a list whose expiry is not known because the clock was set back.
EARLY = "the clock is behind the last check"


class Remark(msgspec.Struct, frozen=True):
    """A reason why a run is not complete: a word, a sentence, and the list if there is one."""

    subject: str
    text: str
    list_name: str = ""
    generation: str = ""
    algorithms: str = ""


def remarks(summary: Summary, written: Callable[[datetime], str] = for_people) -> Iterator[Remark]:
    """Yield all reasons why a run is not complete, in the order that every format uses.

    To add a reason, extend this function. `written` converts a time to text.
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
    """Return the message of the failed step of a run, or the meaning of its exit code."""
    if summary.failed is None or summary.failure is not None:
        return summary.failure
    return f"exit code {int(summary.failed)}: {summary.failed.meaning}"


def missing_text(missing: MissingList) -> str:
    """Return a sentence about a missing list and the reason."""
    if missing.name is not None:
        return f"list {missing.name} is missing: {missing.problem}"
    return f"the lists of provider {missing.provider} are missing: {missing.problem}"


def gap_text(gap: Gap, *, accepted: bool) -> str:
    """Return a sentence about entries that a lookup could not rule out, and how inputs count."""
    count = "counts" if gap.rows == 1 else "count"
    end = f"{count} as clean all the same, since gaps are accepted"
    if not accepted:
        end = f"cannot be distinguished from {'it' if gap.entries == 1 else 'them'}"
    return f"{gap.text}; {counted(gap.rows, 'input')} {end}"


def inside_text(summary: Summary) -> str | None:
    """Return a sentence about the members of containers, or None if the run has no members."""
    if summary.opens_containers is None:
        return None
    if not summary.opens_containers:
        # The option `--no-read`, which forbids reading objects, exists only for scans of objects.
        may_not_read = summary.asks_stores and not summary.files_read
        why = "--no-members or --no-read" if may_not_read else "--no-members"
        return f"archives and mail were not opened: {why}"
    if not summary.members:
        return None
    nouns = "input was" if summary.members == 1 else "inputs were"
    return f"{summary.members:,} {nouns} in archives or mail, {summary.members_read:,} of them read"


def not_opened_text(summary: Summary) -> str | None:
    """Return how many inputs are containers of kinds that are not opened, or None if none is."""
    if not summary.not_opened:
        return None
    by_number = sorted(summary.not_opened.items(), key=lambda item: (-item[1], item[0]))
    kinds = ", ".join(f"{kind} {number:,}" for kind, number in by_number)
    return f"not opened {sum(summary.not_opened.values()):,}, their content is not known: {kinds}"


def rests_on(summary: Summary) -> str:
    """Return how many inputs were decided without reading them, and how; empty if none."""
    parts = {
        "ruled out by size": summary.ruled_out_by_size,
        "ruled out by a claimed size": summary.ruled_out_by_claim,
        "decided by a digest of their store": summary.by_store_digest,
        "known unchanged": summary.known_unchanged,
        "of them believed unchanged": summary.believed_unchanged,
    }
    return ", ".join(f"{number:,} {what}" for what, number in parts.items() if number)
