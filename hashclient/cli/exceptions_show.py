"""How exceptions are shown: in one line, in several, and as JSON."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from hashclient.cli.app import App
from hashclient.cli.output import facts
from hashclient.errors import StateError
from hashclient.system.text import for_people, printable

if TYPE_CHECKING:
    from hashclient.decisions.rulings import Ruling


def with_obstacles(app: App, rulings: Sequence[Ruling]) -> list[tuple[Ruling, str | None]]:
    """Return rulings, each with the reason why it does not count now."""
    from hashclient.decisions.exceptions import Exceptions

    try:
        ruler = Exceptions.of(app.session, app.session.open_lists())
    except StateError as error:
        return [(ruling, error.message) for ruling in rulings]
    return [(ruling, ruler.obstacle(ruling)) for ruling in rulings]


def waiting(ruling: Ruling) -> str | None:
    """Return the reason why a new ruling does not count yet; None if it counts."""
    from hashclient.decisions.rulings import WAITS

    return WAITS if ruling.waits else None


def state_of(ruling: Ruling, obstacle: str | None) -> str:
    """Return in a few words until when a ruling counts, or why it does not."""
    if obstacle is None:
        return f"until {for_people(ruling.until)}"
    return f"not yet: {obstacle}" if obstacle == waiting(ruling) else f"no more: {obstacle}"


def lines_of(shown: Sequence[tuple[Ruling, str | None]]) -> Iterator[str]:
    """Yield a line for each ruling, with its obstacle."""
    for ruling, obstacle in shown:
        about = f"{ruling.about}  {printable(ruling.reason)}"
        yield f"{ruling.id}  {state_of(ruling, obstacle)}  {about}"


def facts_of(ruling: Ruling, obstacle: str | None) -> Iterator[str]:
    """Yield what there is to say of a ruling, line by line."""
    yield f"exception {ruling.id}"
    yield from facts(
        (
            ("about", ruling.about),
            ("counts", state_of(ruling, obstacle)),
            ("reason", printable(ruling.reason)),
            ("by", printable(ruling.by)),
            ("approved by", printable(ruling.approved_by)),
            ("made", for_people(ruling.made_at)),
        )
    )


def document_of(ruling: Ruling, obstacle: str | None) -> dict[str, Any]:
    """Return a ruling as JSON."""
    from hashclient.decisions.keeping import fields_of

    return {**fields_of(ruling), "counts": obstacle is None, "obstacle": obstacle}
