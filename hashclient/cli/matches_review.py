"""`matches review` and `release`: record decisions of people, and act on held matches."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import click

from hashclient.cli.app import App, Results, existing_path, format_option, pass_app, put_restored
from hashclient.cli.exceptions import prepare_exceptions, until_option
from hashclient.cli.options import MATCHES, reason_option, split_entry
from hashclient.core.errors import ExitCode, UsageError
from hashclient.core.kinds import MatchState, Verdict
from hashclient.system.text import counted


@click.command("review")
@click.argument("match_ids", metavar="ID…", nargs=-1, required=True, shell_complete=MATCHES)
@click.option(
    "--confirmed",
    is_flag=True,
    help="The matches are right: the files are what their entries describe.",
)
@click.option("--rejected", is_flag=True, help="The matches are wrong: no report contains them.")
@click.option(
    "--viewed",
    is_flag=True,
    help="Record that you have viewed the content elsewhere; reports mention this.",
)
@click.option(
    "--restore",
    "identity_file",
    type=existing_path(dir_okay=False),
    metavar="FILE",
    help="With --rejected: restore files from quarantine; FILE has the officer's secret key.",
)
@click.option(
    "--except",
    "is_excepted",
    is_flag=True,
    help="With --rejected: make an exception of each file, so that no scan acts on it again.",
)
@until_option
@reason_option()
@format_option("text", "json")
@pass_app
def review(
    app: App,
    match_ids: tuple[str, ...],
    confirmed: bool,
    rejected: bool,
    viewed: bool,
    identity_file: Path | None,
    is_excepted: bool,
    until: datetime | None,
    reason: str,
    output_format: str,
) -> ExitCode:
    """Record whether matches are right or wrong.

    No content is shown: decide by path, owner and entry, or look at the file elsewhere, if the law
    allows this. With `after = "review"` in [report] of config.toml, a report waits until its
    matches are confirmed. No report contains a rejected match; with --except no scan acts on its
    file until the exception ends. If several reviews exist, the last one counts. The reason is a
    word, a colon and a sentence. Words for --confirmed are as-listed, circumstances and provider;
    for --rejected harmless, other-file, wrong-category, lawful and provider.

    \b
      hashclient matches --to-review
      hashclient matches review 3kdz7wnq2m --confirmed --viewed \\
          --reason 'as-listed: seen by the officer, ticket 4711'
      hashclient matches review 3kdz7wnq2m --rejected --except \\
          --restore officer.key --reason 'harmless: the text of a licence'

    Exit codes: 0 recorded, 3 a file was not restored.
    """
    from hashclient.decisions.review import Review, review
    from hashclient.matches.store import Matches
    from hashclient.quarantine.vault import Quarantine, item_ids, load_identities

    if confirmed == rejected:
        raise UsageError("say whether the matches are right: --confirmed or --rejected")
    verdict = Verdict.CONFIRMED if confirmed else Verdict.REJECTED
    if (identity_file is not None or is_excepted) and not rejected:
        raise UsageError("--restore and --except are for --rejected")
    if until is not None and not is_excepted:
        raise UsageError("--until is for --except")
    made = Review.of(verdict, reason, viewed=viewed)
    identities = () if identity_file is None else load_identities(identity_file)
    why = f"{verdict}: {made.text}"
    # The exception is checked first, so that no review is recorded if the exception is refused.
    make = prepare_exceptions(app, match_ids, why, until) if is_excepted else None
    results = Results(app, output_format, match_ids)
    with Matches(app.settings.state_dir, create=False) as record:
        done = [*review(app.session, record, match_ids, made)]
        for match, decided in done:
            waits = "" if decided else ": a second person has to review, too"
            results.put(match.id, f"{verdict}{waits}", path=match.path, done=True, decided=decided)
        ended = [match.id for match, decided in done if decided is Verdict.REJECTED]
        # The exception is made before the file is restored, because a scan would act on a restored
        # file without an exception. No file is restored while the exception waits for a second
        # person.
        if make is not None and ended and not make(ended):
            identities = ()
        here = {*item_ids(app.settings.layout.quarantine)}
        sealed = [match_id for match_id in ended if match_id in here]
        if identities and sealed:
            room = Quarantine(app.session)
            put_restored(
                results, room.restore_all(sealed, identities, record, reason=why, force=True)
            )
    if ended:
        _say_next(app, is_excepted=is_excepted, sealed=0 if identities else len(sealed))
    return results.end("nothing was reviewed")


def _say_next(app: App, *, is_excepted: bool, sealed: int) -> None:
    """Print the remaining steps for rejected matches."""
    if sealed:
        app.say(
            f"hint: {counted(sealed, 'file')} in quarantine: `hashclient quarantine restore ID"
            " --identity FILE --force --reason …`"
        )
    if not is_excepted:
        app.say(
            "hint: a scan acts on them again: `hashclient exceptions add --match ID --reason …`"
        )


@click.command("release")
@click.argument("match_ids", metavar="[ID…]", nargs=-1, shell_complete=MATCHES)
@click.option(
    "--entry",
    metavar="LIST/ENTRY",
    help="All held matches of this entry, in the form that `status` shows.",
)
@click.option(
    "--most",
    type=click.IntRange(1, 1_000_000_000),
    metavar="N",
    help="With --entry: at most N matches, the first that were found.",
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
    """Do the actions of the policy for held matches.

    A match is held when more files match its entry within a day than the configuration allows to be
    acted upon: [brake] per_entry. So a single wrong entry cannot isolate all files. Look at some of
    the files first, by their paths; if the entry is right, release the matches of the entry.

    \b
      hashclient matches --state held
      hashclient matches release --entry baseline/d-1 --most 10 \\
          --reason 'ticket 4711'
      hashclient matches release 3kdz7wnq2m --reason 'ticket 4711'

    Exit codes: 0 all actions are done, 3 an action is not done.
    """
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
        assert handled.record is not None, "the match comes from the database"
        results.put(
            handled.record.id,
            "; ".join(acted.detail for acted in handled.acted)
            or "released: the policy has no action for it",
            path=handled.outcome.path,
            done=all(acted.done for acted in handled.acted),
        )
    for report in responder.end():
        app.say(f"report {report.id} is prepared; next: hashclient report submit {report.id}")
    if responder.failed is not None:
        results.count(responder.failed)
    return results.end("no held match fits these options")
