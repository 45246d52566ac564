"""Turns the outcome of an input into the words of a reply.

An unknown input never passes as clean. For clients, any name before `FOUND` is a virus; but some
treat names that begin with `Heuristics.Limits.Exceeded` as content that could not be checked. So an
input without a verdict gets such a name, unless the operator wants an error or a pass.
"""

from __future__ import annotations

from hashclient.core.kinds import Kind
from hashclient.core.model import Outcome
from hashclient.daemon.options import NoVerdict
from hashclient.daemon.protocol import no_verdict, signature

OK = "OK"


def answer(
    outcome: Outcome | None, doubt: str | None, rule: NoVerdict, *, every: bool = False
) -> list[str]:
    """Return the reply about one input, after its name; with `every`, a line for each entry.

    `outcome` is None for a clean input; an excepted one is answered as that. `doubt` is one word
    that says why it may not be clean.
    """
    kind = Kind.CLEAN if outcome is None else outcome.kind
    if outcome is not None and kind is Kind.MATCH:
        names = [signature(hit.list_name, hit.entry) for hit in outcome.hits if hit.complete]
        return [f"{name} FOUND" for name in (names if every else names[:1])]
    if outcome is not None and kind is Kind.CONFLICT:
        return [unknown("Conflict", "entries of a list agree in part only", rule)]
    if outcome is not None and kind not in (Kind.CLEAN, Kind.EXCEPTED):
        return [unknown("Unread", outcome.reason or "it was not read", rule)]
    if doubt is not None:
        return [unknown(doubt, f"lists are {doubt.lower()}", rule)]
    return [OK]


def unknown(word: str, reason: str, rule: NoVerdict) -> str:
    """Return the reply about an input without a verdict, as the operator has chosen."""
    if rule is NoVerdict.FOUND:
        return f"{no_verdict(word)} FOUND"
    if rule is NoVerdict.ERROR:
        # Clients take what stands before the last colon for the name of the input.
        return f"{reason.replace(': ', ', ')}. ERROR"
    return OK
