"""`matches release`: a person lets held matches be acted upon."""

from __future__ import annotations

import click

from hashclient.cli.app import App, format_option, pass_app
from hashclient.cli.options import MATCHES, reason_option, split_entry
from hashclient.core.kinds import MatchState
from hashclient.errors import ExitCode, UsageError


@click.command("release")
@click.argument("match_ids", metavar="[ID…]", nargs=-1, shell_complete=MATCHES)
@click.option(
    "--entry", metavar="LIST/ENTRY", help="All held matches of this entry, as `status` names it."
)
@click.option(
    "--most",
    type=click.IntRange(1, 1_000_000_000),
    metavar="N",
    help="With --entry: no more than N, those that were found first.",
)
@reason_option()
@format_option("text", "json")
@pass_app
def release(
    app: App,
    match_ids: tuple[str, ...],
    entry: str | None,
    most: int | None,
    reason: str,
    output_format: str,
) -> ExitCode:
    """Act on held matches, as the policy says.

    A match is held when more files match its entry within a day than the configuration allows to be
    acted upon: [brake] per_entry. So one wrong entry cannot isolate everything. Look at some of the
    files first, by their paths; if the entry is right, release its matches.

    \b
      hashclient matches --state held
      hashclient matches release --entry baseline/d-1 --most 10 \\
          --reason 'ticket 4711'
      hashclient matches release 3kdz7wnq2m --reason 'ticket 4711'

    Exit codes: 0 the actions are done, 3 one is not.
    """
    from hashclient.cli.app import Results
    from hashclient.decisions.exceptions import Exceptions
    from hashclient.matches.store import Matches
    from hashclient.scan.run.actions import Responder
    from hashclient.scan.run.release import release

    if bool(match_ids) == (entry is not None):
        raise UsageError("say which matches: their ids, or --entry", hint="`hashclient status`")
    if most is not None and entry is None:
        raise UsageError("--most is for --entry")
    with Matches(app.settings.state_dir, create=False) as record:
        if entry is None:
            chosen = [record.get(match_id) for match_id in match_ids]
            for match in chosen:
                if match.state is not MatchState.HELD:
                    raise UsageError(f"match {match.id} is not held: it is {match.state}")
        else:
            chosen = record.held(split_entry(entry), -1 if most is None else most)
    results = Results(app, output_format, match_ids)
    lists = app.session.open_lists()
    responder = Responder(app.session, lists.states)
    ruler = Exceptions.of(app.session, lists)
    for handled in release(app.session, responder, chosen, reason, ruler.rule):
        assert handled.record is not None, "it is from the record"
        results.put(
            handled.record.id,
            "; ".join(acted.detail for acted in handled.acted) or "released: no action is wanted",
            path=handled.outcome.path,
            done=all(acted.done for acted in handled.acted),
        )
    for report in responder.end():
        app.say(f"report {report.id} is prepared; next: hashclient report submit {report.id}")
    if responder.failed is not None:
        results.count(responder.failed)
    return results.end("no match is held like that")
