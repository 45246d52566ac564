"""`matches review`: a person says whether matches are what their entries stand for."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import click

from hashclient.cli.app import App, existing_path, format_option, pass_app
from hashclient.cli.exceptions import prepare_exceptions, until_option
from hashclient.cli.options import MATCHES, reason_option
from hashclient.core.kinds import Verdict
from hashclient.errors import ExitCode, UsageError
from hashclient.system.text import counted


@click.command("review")
@click.argument("match_ids", metavar="ID…", nargs=-1, required=True, shell_complete=MATCHES)
@click.option("--confirmed", is_flag=True, help="They are what their entries stand for.")
@click.option("--rejected", is_flag=True, help="They are not: no report of them leaves.")
@click.option(
    "--viewed",
    is_flag=True,
    help="Note that you have viewed the content, elsewhere: reports say so then.",
)
@click.option(
    "--restore",
    "identity_file",
    type=existing_path(dir_okay=False),
    metavar="FILE",
    help="With --rejected: put files in quarantine back; FILE is the officer's secret key.",
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
    """Note what you say of matches: that they are as listed, or that they are not.

    Nothing is shown here: decide by path, owner and entry, or look at the file elsewhere, if your
    law lets you. With `after = "review"` in [report] of config.toml, a report waits until its
    matches are confirmed. A rejected match is in no report; with --except no scan acts on its file
    until the exception ends. The last review of a person counts.
    The reason is a word, a colon and a sentence. Words for --confirmed are as-listed,
    circumstances and provider; for --rejected harmless, other-file, wrong-category, lawful and
    provider.

    \b
      hashclient matches --to-review
      hashclient matches review 3kdz7wnq2m --confirmed --viewed \\
          --reason 'as-listed: seen by the officer, ticket 4711'
      hashclient matches review 3kdz7wnq2m --rejected --except \\
          --restore officer.key --reason 'harmless: the text of a licence'

    Exit codes: 0 noted, 3 a file was not put back.
    """
    from hashclient.cli.app import Results, put_restored
    from hashclient.decisions.review import Review, review
    from hashclient.matches.store import Matches
    from hashclient.quarantine.vault import Quarantine, item_ids, load_identities

    if confirmed == rejected:
        raise UsageError("say what they are: --confirmed or --rejected")
    verdict = Verdict.CONFIRMED if confirmed else Verdict.REJECTED
    if (identity_file is not None or is_excepted) and not rejected:
        raise UsageError("--restore and --except are for --rejected")
    if until is not None and not is_excepted:
        raise UsageError("--until is for --except")
    made = Review.of(verdict, reason, viewed=viewed)
    identities = () if identity_file is None else load_identities(identity_file)
    why = f"{verdict}: {made.text}"
    # Nothing is noted where the exception would be refused.
    make = prepare_exceptions(app, match_ids, why, until) if is_excepted else None
    results = Results(app, output_format, match_ids)
    with Matches(app.settings.state_dir, create=False) as record:
        done = [*review(app.session, record, match_ids, made)]
        for match, decided in done:
            waits = "" if decided else ": another person has to say so, too"
            results.put(match.id, f"{verdict}{waits}", path=match.path, done=True, decided=decided)
        ended = [match.id for match, decided in done if decided is Verdict.REJECTED]
        # The exception comes first, since a scan would act on a file that is back. While the
        # exception waits for a second person, no file is put back.
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
    """Offer what was not done about rejected matches."""
    if sealed:
        app.say(
            f"hint: {counted(sealed, 'file')} in quarantine: `hashclient quarantine restore ID"
            " --identity FILE --force --reason …`"
        )
    if not is_excepted:
        app.say(
            "hint: a scan acts on them again: `hashclient exceptions add --match ID --reason …`"
        )
