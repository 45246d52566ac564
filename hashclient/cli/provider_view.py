"""How `provider` shows a repository and its changes: as text and as JSON."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from hashclient.cli.app import App
from hashclient.cli.output import table
from hashclient.system.times import for_people

if TYPE_CHECKING:
    from hashclient.provider.results import Published, Status


def status_text(found: Status, now: datetime) -> Iterator[str]:
    """Yield the published state as two tables; roles expired at `now` are marked."""
    rows = [["ROLE", "VERSION", "KEYS", "EXPIRES"]]
    for role in found.roles:
        when = for_people(role.expires) + ("  expired" if role.expires <= now else "")
        rows.append([role.name, str(role.version), f"{role.threshold} of {role.keys}", when])
    lists = [["LIST", "GENERATION", "LIVE", "SEGMENTS", "PUBLISHED"]]
    for one in found.lists:
        numbers = map(str, (one.generation, one.live, one.segments))
        lists.append([one.name, *numbers, for_people(one.published_at)])
    yield from table(rows)
    yield from ("", *(table(lists) if found.lists else ["no list yet"]))
    if found.ended:
        yield from ("", f"ended: {', '.join(found.ended)}")
    yield from ("", f"root.json sha256 {found.root_sha256}")


def show_change(
    app: App,
    done: Published,
    what: str,
    output_format: str,
    more: Mapping[str, Any] = MappingProxyType({}),
    *,
    with_withdrawn: bool = False,
) -> None:
    """Print the result of a publication or a withdrawal; `what` names what was done to entries."""
    document = {
        "list": done.list_name,
        "generation": done.generation,
        what.removeprefix("would be "): done.changed,
        "live": done.live,
        **more,
    }
    text = (
        f"list {done.list_name}: generation {done.generation}: {done.changed} {what},"
        f"{f' {done.withdrawn} withdrawn,' if with_withdrawn else ''} {done.live} live"
    )
    app.show(output_format, document, text)


def warn_doubles(app: App, done: Published, *, dry_run: bool) -> None:
    """Warn of added entries whose digests were all listed before, or given twice."""
    published = "they would be published" if dry_run else "they were published"
    for some, what in ((done.listed, "on the list before"), (done.repeated, "given twice")):
        if some is not None:
            app.warn(
                f"{what}, by all their digests: {some.count:,} of {done.changed:,} entries,"
                f" the first from {some.first}",
                f"{published} all the same; `hashclient provider withdraw` takes entries"
                " off the list",
            )
