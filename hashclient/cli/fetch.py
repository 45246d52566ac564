"""`fetch`: brings the lists up to date."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hashclient.cli.app import MOST_SHOWN, App, existing_path, format_option, pass_app, shortened
from hashclient.cli.notices import document_of_fetched, show_notices
from hashclient.cli.options import LISTS
from hashclient.cli.publishing import publish_after
from hashclient.core.errors import ExitCode, HashclientError
from hashclient.core.kinds import SETTLED, MatchState
from hashclient.system.text import counted, for_people, path_fields, printable

if TYPE_CHECKING:
    from hashclient.core.match import Match
    from hashclient.fetch.notices import FetchedNotices
    from hashclient.fetch.switch import Fetched


#: The longest time in seconds to wait for another fetch: a day.
MAX_WAIT_S = 86_400.0


@click.command("fetch")
@click.option(
    "--list",
    "only",
    metavar="NAME",
    shell_complete=LISTS,
    multiple=True,
    help="Fetch this list only, even if `lists` in the configuration does not name it. Can be given"
    " several times. [default: all]",
)
@click.option("--provider", metavar="NAME", help="Fetch from this provider only. [default: all]")
@click.option(
    "--from",
    "copy",
    metavar="PATH",
    type=existing_path(),
    help="Read this bundle, or this copy of the provider's public/, and use no network.",
)
@click.option(
    "--rebuild",
    is_flag=True,
    help="Build the lists again from the provider's signed files.",
)
@click.option(
    "--accept-churn", is_flag=True, help="Accept a generation that `max_churn` would refuse."
)
@click.option(
    "--wait",
    "wait_s",
    is_flag=False,
    flag_value=MAX_WAIT_S,
    type=click.FloatRange(0, MAX_WAIT_S),
    default=0.0,
    metavar="[SECONDS]",
    help="Wait until another fetch has finished, for SECONDS at most; without a number, for a day.",
)
@format_option("text", "json")
@pass_app
def command(
    app: App,
    only: tuple[str, ...],
    provider: str | None,
    copy: Path | None,
    rebuild: bool,
    accept_churn: bool,
    wait_s: float,
    output_format: str,
) -> ExitCode:
    """Fetch the changes of the lists, verify, seal and use them.

    Signatures, expiry and age are checked first; a list that fails a check stays as it was. If
    nothing is new, a fetch costs two small requests, so it can run every few minutes. If a provider
    has `mirrors` in the configuration, they are tried in order: if an address lacks a file, or its
    file is not the signed file, the next address is asked.

    Without a network, --from reads a file from `hashclient provider export`, or a copy of a
    provider's public/. The file is verified in the same way, and it can expire, too.

    \b
      hashclient fetch
      hashclient fetch --list baseline
      hashclient fetch --wait 600
      hashclient fetch --from /media/usb/lists.bundle
      hashclient --quiet fetch          from cron: prints only errors

    Exit codes: 0 all lists are up to date, 4 provider unreachable, 5 not authorised, 6 failed
    verification, 7 expired; all are in `hashclient --help`.
    """
    publish_after(app)
    results: list[Fetched] = []
    of_notices: dict[str, FetchedNotices] = {}
    code = ExitCode.OK

    def on_notices(notices: FetchedNotices) -> None:
        of_notices[notices.provider] = notices
        show_notices(app, notices, with_text=output_format == "text", refused=app.fail)

    try:
        for fetched in fetch_lists(
            app,
            frozenset(only),
            provider,
            copy=copy,
            on_notices=on_notices,
            rebuild=rebuild,
            accept_churn=accept_churn,
            wait_s=wait_s,
        ):
            results.append(fetched)
            if output_format == "text":
                _show(app, fetched)
                _say_outside(app, fetched)
                _show_affected(app, fetched)
                _show_listed_again(app, fetched)
            _warn(app, fetched)
            if fetched.problem is not None:
                app.fail(_problem(fetched.problem), fetched.problem.hint)
            if (wrong := fetched.error or fetched.problem) is not None:
                code = max(code, wrong.exit_code)
    except HashclientError as error:
        # The worst exit code wins, because a script that ignores the exit code 4 has to notice a
        # worse error of another list.
        if error.exit_code >= _worst(code, of_notices):
            raise
        app.warn(error.message, error.hint)
    finally:
        document: dict[str, Any] = {"lists": [_document(f) for f in results]}
        if of_notices:
            document["notices"] = [document_of_fetched(n) for n in of_notices.values()]
        app.show(output_format, document, ())
    return _worst(code, of_notices)


def fetch_and_show(app: App) -> ExitCode | None:
    """Fetch the lists for another command; return the exit code of the worst failure, or None.

    If the fetch fails, the command that wanted the fetch continues with the present lists. A list
    that was sealed with another key is built again. For example, a CI system may restore a list
    from a cache that is older than the present key.
    """
    from hashclient.index.manifest import OtherKeyError

    failed = ExitCode.OK
    other_key: set[str] = set()
    of_notices: dict[str, FetchedNotices] = {}

    def on_notices(notices: FetchedNotices) -> None:
        of_notices[notices.provider] = notices
        show_notices(app, notices, with_text=False, refused=app.warn)

    def fetch() -> Iterator[Fetched]:
        yield from fetch_lists(app, on_notices=on_notices)
        if other_key:
            yield from fetch_lists(app, frozenset(other_key), rebuild=True, on_notices=on_notices)

    try:
        for fetched in fetch():
            if isinstance(fetched.error, OtherKeyError) and fetched.list_name not in other_key:
                app.warn(f"{fetched.error.message}: the list is built again")
                other_key.add(fetched.list_name)
                continue
            if fetched.error is not None:
                app.warn(_refusal(fetched, fetched.error), fetched.error.hint)
                failed = max(failed, fetched.error.exit_code)
                continue
            if fetched.problem is not None:
                app.warn(_problem(fetched.problem), fetched.problem.hint)
                failed = max(failed, fetched.problem.exit_code)
            _warn(app, fetched)
            if fetched.is_ended:
                app.say(_ended(app, fetched))
            elif fetched.changed:
                app.say(f"list {fetched.list_name}: now at generation {fetched.generation}")
    except HashclientError as error:
        if error.exit_code is ExitCode.USAGE:
            raise
        app.warn(error.message, error.hint)
        failed = max(failed, error.exit_code)
    return _worst(failed, of_notices) or None


def _worst(code: ExitCode, of_notices: Mapping[str, FetchedNotices]) -> ExitCode:
    """Return the worst of the exit code `code` and the exit codes of failed notices."""
    return max([code, *(n.error.exit_code for n in of_notices.values() if n.error)])


def fetch_lists(
    app: App,
    only: frozenset[str] = frozenset(),
    provider: str | None = None,
    *,
    copy: Path | None = None,
    rebuild: bool = False,
    accept_churn: bool = False,
    wait_s: float = 0.0,
    on_notices: Callable[[FetchedNotices], None] | None = None,
) -> Iterator[Fetched]:
    """Fetch, and yield the result for every list of one provider or of all providers.

    Raises:
        HashclientError: see `Client.fetch`.
    """
    from hashclient.cli.progress import fetch_progress
    from hashclient.client.client import Client

    with fetch_progress(app) as progress:
        yield from Client(app.session).fetch(
            *only,
            provider=provider,
            copy=copy,
            rebuild=rebuild,
            accept_churn=accept_churn,
            wait_s=wait_s,
            progress=progress,
            on_failure=lambda error: app.warn(error.message, error.hint),
            on_notices=on_notices,
            on_wait=lambda: app.say(
                "another hashclient is writing to this state directory: waiting for it"
            ),
        )


def _show(app: App, fetched: Fetched) -> None:
    name = fetched.list_name
    if fetched.error is not None:
        app.fail(_refusal(fetched, fetched.error), fetched.error.hint)
        return
    if fetched.is_ended:
        app.out(_ended(app, fetched))
        return
    live = counted(fetched.entries or 0, "live entry", "live entries")
    assert fetched.expires is not None  # a list with a generation also has an expiry
    state = f"{live}, fresh until {for_people(fetched.expires)}"
    if fetched.source != app.settings.provider(fetched.provider).url:
        state += f"; from {fetched.source}"
    if fetched.added is None:
        app.out(
            f"list {name}: generation {fetched.before} -> {fetched.generation},"
            f" built again; {state}"
        )
    elif not fetched.changed:
        app.out(f"list {name}: nothing new, generation {fetched.generation}; {state}")
    else:
        before = "new" if fetched.before is None else f"generation {fetched.before}"
        app.out(
            f"list {name}: {before} -> generation {fetched.generation},"
            f" {fetched.added:,} added, {fetched.withdrawn:,} withdrawn; {state}"
        )


def _ended(app: App, fetched: Fetched) -> str:
    said = f"list {fetched.list_name}: its provider has ended the list; it is not used any more"
    if fetched.list_name not in (app.settings.provider(fetched.provider).lists or ()):
        return said
    return f"{said}: remove it from `lists` of provider {fetched.provider}"


def _say_outside(app: App, fetched: Fetched) -> None:
    """Print why a list that `lists` in config.toml does not name is kept up to date."""
    if fetched.is_outside and fetched.error is None and not fetched.is_ended:
        folder = app.settings.layout.lists / fetched.list_name
        app.say(
            f"list {fetched.list_name} has a folder here, so it is kept up to date although "
            f"`lists` of provider {fetched.provider} does not name it: add it there, or remove "
            f"{printable(folder)} if you do not want the list"
        )


def _refusal(fetched: Fetched, error: HashclientError) -> str:
    # Most messages begin with the name of the list or of the provider already.
    if error.message.startswith(("list ", "provider ")):
        return error.message
    return f"list {fetched.list_name}: {error.message}"


def _problem(problem: HashclientError) -> str:
    return f"cannot find the files that had matched a withdrawn entry: {problem.message}"


def _warn(app: App, fetched: Fetched) -> None:
    """Warn of unusual facts about a list that are not a reason to refuse the list."""
    if fetched.is_ahead and fetched.published_at is not None:
        app.warn(
            f"list {fetched.list_name}: its published_at is in the future:"
            f" {for_people(fetched.published_at)}",
            "check this machine's clock; if it is right, tell the provider",
        )
    if fetched.known_good is not None and (text := fetched.known_good.text):
        app.warn(f"list {fetched.list_name}: {text}")


def _show_affected(app: App, fetched: Fetched) -> None:
    if not fetched.affected:
        return
    count = counted(len({match.id for match, _ in fetched.affected}), "path")
    app.out(f"withdrawn entries of list {fetched.list_name} had matched {count}:")
    rows = [
        f"  {printable(match.path)}  [{match.id}]  {hit.entry}{_what_now(match)}"
        for match, hit in fetched.affected
    ]
    for line in shortened(rows, "`hashclient matches --state withdrawn`"):
        app.out(line)
    if any(m.state is MatchState.WITHDRAWN and not m.in_place for m, _ in fetched.affected):
        app.say("next: `hashclient quarantine restore --withdrawn` puts the isolated files back")


def _what_now(match: Match) -> str:
    if match.state in SETTLED:
        return f", which is {match.state}"
    if match.state is not MatchState.WITHDRAWN:
        return ", but still matches another entry"
    return "" if match.in_place else ", which was isolated"


def _show_listed_again(app: App, fetched: Fetched) -> None:
    if not fetched.listed_again:
        return
    count = counted(len(fetched.listed_again), "file")
    app.out(
        f"list {fetched.list_name} lists {count} again whose entries were withdrawn; these files "
        "stay in quarantine:"
    )
    rows = [
        f"  {printable(match.path)}  [{match.id}]  {', '.join(h.entry for h in match.standing)}"
        for match in fetched.listed_again
    ]
    for line in shortened(rows, "`hashclient matches --state quarantined`"):
        app.out(line)


def _document(fetched: Fetched) -> dict[str, Any]:
    document: dict[str, Any] = {
        "list": fetched.list_name,
        "provider": fetched.provider,
        "source": fetched.source,
        "changed": fetched.changed,
        "before": fetched.before,
        "generation": fetched.generation,
        "added": fetched.added,
        "withdrawn": fetched.withdrawn,
        "entries": fetched.entries,
        "expires": fetched.expires,
        "published_at": fetched.published_at,
        "outside_lists": fetched.is_outside,
        "known_good": fetched.known_good.count if fetched.known_good else 0,
        "set_aside": len(fetched.known_good.set_aside) if fetched.known_good else 0,
        "ended": fetched.is_ended,
    }
    if fetched.affected:
        document["affected_count"] = len(fetched.affected)
        document["affected"] = [
            {
                **path_fields(match.path),
                "id": match.id,
                "entry": hit.entry,
                "in_place": match.in_place,
                "state": str(match.state),
            }
            for match, hit in fetched.affected[:MOST_SHOWN]
        ]
    if fetched.listed_again:
        document["listed_again_count"] = len(fetched.listed_again)
        document["listed_again"] = [
            {
                **path_fields(match.path),
                "id": match.id,
                "entries": [hit.entry for hit in match.standing],
            }
            for match in fetched.listed_again[:MOST_SHOWN]
        ]
    for key, wrong in (("problem", fetched.problem), ("error", fetched.error)):
        if wrong is not None:
            document[key] = {"message": wrong.message, "exit_code": wrong.exit_code}
    return document
