"""Notices on a terminal and as JSON. Text of a provider is always shown escaped."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from hashclient.cli.app import App
from hashclient.system.text import printable
from hashclient.system.times import for_people

if TYPE_CHECKING:
    from hashclient.fetch.notices import FetchedNotices
    from hashclient.notices.document import Notice
    from hashclient.notices.lifecycle import Standing


def severity_of(notice: Notice) -> str:
    """Return how bad a notice is, and that it is not meant if it is not."""
    meant = "" if notice.status == "Actual" else f", {notice.status}"
    return f"{notice.severity}{meant}"


def line_of(standing: Standing) -> str:
    """Return one line on a notice."""
    notice = standing.notice
    return (
        f"{standing.name}  [{severity_of(notice)}]  {_state_of(standing)}"
        f"  {for_people(notice.sent)}  {printable(notice.headline)}"
    )


def text_of(standing: Standing) -> Iterator[str]:
    """Yield the lines of all that a notice says, and how it stands."""
    kept = standing.kept
    more = {"state": _state_of(standing), "received": for_people(kept.received)}
    if kept.acknowledged is not None:
        said = f": {printable(kept.acknowledged.reason)}" if kept.acknowledged.reason else ""
        by = printable(kept.acknowledged.by)
        more["acknowledged"] = f"{for_people(kept.acknowledged.at)} by {by}{said}"
    yield f"notice {standing.name}"
    yield from lines_of(standing.notice, more)


def lines_of(notice: Notice, more: Mapping[str, str] = MappingProxyType({})) -> Iterator[str]:
    """Yield the lines of all that a notice says, and of its state here."""
    rows = {
        "headline": printable(notice.headline),
        "event": printable(notice.event),
        "state": more.get("state", ""),
        "type": str(notice.type),
        "refers to": ", ".join(reference.id for reference in notice.references),
        "status": str(notice.status),
        "severity": str(notice.severity),
        "urgency": str(notice.urgency),
        "certainty": str(notice.certainty),
        "lists": ", ".join(notice.lists),
        "sender": printable(notice.sender),
        "sent": for_people(notice.sent),
        "expires": for_people(notice.expires),
        "received": more.get("received", ""),
        "contact": printable(notice.contact),
        "acknowledged": more.get("acknowledged", ""),
    }
    yield from (f"  {name:<13} {value}" for name, value in rows.items() if value)
    for name in ("description", "instruction"):
        text: str = getattr(notice, name)
        if text:
            yield f"  {name}"
            yield from (f"    {printable(line)}".rstrip() for line in text.split("\n"))


def document_of(standing: Standing) -> dict[str, Any]:
    """Return all that is known of a notice, for JSON."""
    import msgspec

    kept = standing.kept
    return {
        "provider": standing.provider,
        "state": str(standing.state),
        "ended_by": standing.by,
        "received": kept.received,
        "shown": kept.shown,
        "acknowledged": kept.acknowledged and msgspec.to_builtins(kept.acknowledged),
        "notice": msgspec.to_builtins(standing.notice),
    }


def show_notices(
    app: App,
    fetched: FetchedNotices,
    *,
    with_text: bool,
    refused: Callable[[str, str | None], None],
) -> None:
    """Show the notices of a fetch on stdout or stderr; `refused` shows the error."""
    show = app.out if with_text else app.say
    for standing in fetched.arrived:
        if standing.stands:
            notice = standing.notice
            headline = printable(notice.headline)
            show(f"notice {standing.name}: [{severity_of(notice)}] {headline}")
    for standing in fetched.ended:
        show(f"notice {standing.name}: {_state_of(standing)}")
    if any(standing.stands for standing in fetched.arrived):
        app.say("next: `hashclient notices show ID` shows all of it")
    if (error := fetched.error) is not None:
        more = len(fetched.refused) - 1
        others = f" ({more:,} more of its notices are not here either)" if more > 0 else ""
        refused(f"{error.message}{others}", error.hint)


def document_of_fetched(fetched: FetchedNotices) -> dict[str, Any]:
    """Return the notices that a fetch has brought, for JSON."""
    document: dict[str, Any] = {
        "provider": fetched.provider,
        "arrived": [document_of(standing) for standing in fetched.arrived],
        "ended": [
            {"id": s.notice.id, "state": str(s.state), "ended_by": s.by} for s in fetched.ended
        ],
    }
    if fetched.refused:
        document["refused"] = [{"id": one.id, "reason": one.reason} for one in fetched.refused]
    if (error := fetched.error) is not None:
        document["error"] = {"message": error.message, "exit_code": error.exit_code}
    return document


def _state_of(standing: Standing) -> str:
    return f"{standing.state} by {standing.by}" if standing.by else str(standing.state)
