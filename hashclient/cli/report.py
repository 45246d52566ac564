"""`report`: sends reports of matches to an authorised body, and records their states."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from hashclient.cli.app import App, existing_path, format_option, pass_app
from hashclient.cli.matches import open_record
from hashclient.cli.options import MATCHES, REPORTS, free_text, reason_option
from hashclient.cli.report_receive import certificate, receive, verify
from hashclient.cli.report_show import count_of, export, open_outbox, report_document, status
from hashclient.core.errors import ExitCode, HashclientError, LockedError, UsageError
from hashclient.core.kinds import MatchState
from hashclient.system.text import counted, printable

if TYPE_CHECKING:
    from hashclient.core.match import Match
    from hashclient.matches.store import Matches
    from hashclient.reporting.destinations.interface import Rehearsal
    from hashclient.reporting.outbox import Outbox
    from hashclient.reporting.report import Report, Sent
    from hashclient.reporting.submit import Sender


@click.group("report")
def command() -> None:
    """Report matches to a body, once and provably.

    A report is prepared from matches, then submitted. The destination in config.toml decides: the
    report becomes a package in a directory, or goes to a reporting service over the network.
    Nothing is sent before `submit`. An unsent report can be retracted.

    \b
      hashclient report prepare 3kdz7wnq2m 7rwtb2c9xh
      hashclient report submit --all
      hashclient report status
    """


@command.command("prepare")
@click.argument("match_ids", metavar="[ID…]", nargs=-1, shell_complete=MATCHES)
@click.option(
    "--all",
    "all_matches",
    is_flag=True,
    help="All matches that still have to be reported and are in no report to this destination yet.",
)
@click.option(
    "--to",
    "destination",
    metavar="NAME",
    help="The destination of the report. [default: the one in config.toml]",
)
@click.option(
    "--again",
    is_flag=True,
    help="Report matches again that are already in a report to this destination.",
)
@click.option(
    "--seal-evidence",
    is_flag=True,
    help="For a package: seal files that are not in quarantine, too; these files stay in place.",
)
@click.option(
    "--with-context",
    is_flag=True,
    help="For a package: add the sealed files that belong to matches (quarantine add --context).",
)
@format_option("text", "json")
@pass_app
def prepare(
    app: App,
    match_ids: tuple[str, ...],
    all_matches: bool,
    destination: str | None,
    again: bool,
    seal_evidence: bool,
    with_context: bool,
    output_format: str,
) -> None:
    """Make a report of matches, to be submitted later.

    \b
      hashclient report prepare 3kdz7wnq2m 7rwtb2c9xh
      hashclient report prepare --all --to police
    """
    if bool(match_ids) == all_matches:
        raise UsageError(
            "say which matches: their ids, or --all", hint="`hashclient matches` lists them"
        )
    outbox = open_outbox(app)
    with open_record(app) as record:
        if all_matches:
            matches, waiting = _unreported(outbox, record, destination)
            if waiting:
                verb = "waits" if waiting == 1 else "wait"
                app.say(
                    f"{counted(waiting, 'match')} {verb} for a review:"
                    " `hashclient matches --to-review`"
                )
        else:
            matches = [record.get(match_id) for match_id in match_ids]
        if not matches:
            app.say("nothing to report")
            return
        report = outbox.prepare(
            matches,
            record,
            destination,
            again=again,
            seal_evidence=seal_evidence,
            with_context=with_context,
        )
    if streams := sum(match.is_stream for match in matches):
        app.warn(
            f"{counted(streams, 'match')} came as streams: nobody has kept the content, so the "
            "report does not contain it",
            "look for the content where the stream came from",
        )
    text = f"prepared {report.id}: {count_of(report)} to {report.destination}"
    app.show(output_format, report_document(report), text)
    if output_format == "text":
        app.say(f"hint: `hashclient report submit {report.id}` sends it")


@command.command("submit")
@click.argument("report_ids", metavar="[REPORT…]", nargs=-1, shell_complete=REPORTS)
@click.option("--all", "all_reports", is_flag=True, help="Submit all waiting reports now.")
@click.option(
    "--due",
    "due_reports",
    is_flag=True,
    help="Submit all waiting reports that are due; for cron and timers.",
)
@click.option(
    "--identity",
    "identity_paths",
    metavar="FILE",
    multiple=True,
    type=existing_path(dir_okay=False),
    help="Secret key that opens items in quarantine, for services that need plain files.",
)
@click.option(
    "--again",
    is_flag=True,
    help="Begin the report again at the service; only if you know that the service does not have "
    "it.",
)
@click.option(
    "--allow-closed",
    is_flag=True,
    help="Hand a package over although its recipient cannot open the evidence.",
)
@click.option(
    "--unreviewed",
    is_flag=True,
    help="Send reports even if matches in them wait for a review; needs --reason.",
)
@click.option(
    "--dry-run",
    is_flag=True,
    help="Show what would be sent, and what is missing; nothing is sent, prepared or changed.",
)
@reason_option(default=None)
@format_option("text", "json")
@pass_app
def submit(
    app: App,
    report_ids: tuple[str, ...],
    all_reports: bool,
    due_reports: bool,
    identity_paths: tuple[Path, ...],
    again: bool,
    allow_closed: bool,
    unreviewed: bool,
    dry_run: bool,
    reason: str | None,
    output_format: str,
) -> ExitCode:
    """Send reports.

    Reports that you name are sent now. --all sends every waiting report, even if it has just
    failed. --due sends new reports at once, and sends failed reports again after a pause, which
    grows from 5 minutes to a day. With --due, if no report is due, nothing is printed and the exit
    code is 0. An interrupted report continues where it stopped. A report waits as long as a match
    in it waits for a review ([report] after in config.toml).

    \b
      hashclient report submit r-3kdz7wnq2m
      hashclient report submit --all
      hashclient report submit --all --identity /media/officer/key.txt
      hashclient report submit --due          for cron
      hashclient report submit --all --dry-run
      hashclient report submit r-3kdz7wnq2m --unreviewed \\
          --reason 'imminent danger, ticket 4711'
    """
    if [bool(report_ids), all_reports, due_reports].count(True) != 1:
        raise UsageError("say which reports: their ids, --all or --due")
    if not report_ids and (again or allow_closed):
        option = "--again" if again else "--allow-closed"
        raise UsageError(f"{option} is for one report at a time: name it")
    if unreviewed != (reason is not None):
        raise UsageError("--unreviewed and --reason go together")
    if unreviewed and due_reports:
        raise UsageError("--unreviewed is for a person, --due is for timers")
    if dry_run:
        with _sender(app, identity_paths) as sender:
            return _show_rehearsals(app, sender.rehearse(report_ids or None), output_format)
    failures = [] if report_ids else _prepare_wanted(app, unreviewed=unreviewed)
    with _sender(app, identity_paths, allow_closed=allow_closed, unreviewed=reason) as sender:
        if report_ids:
            attempts = _one_by_one(sender, report_ids, again)
        else:
            attempts = _one_after_another(
                sender.send_due() if due_reports else sender.send_waiting()
            )
        nothing = "no report waits" if all_reports else ""
        return _show_attempts(app, itertools.chain(failures, attempts), output_format, nothing)


@command.command("acknowledge")
@click.argument("report_id", metavar="REPORT", shell_complete=REPORTS)
@click.option(
    "--reference",
    metavar="TEXT",
    required=True,
    callback=free_text,
    help="The recipient's name for the report, such as a case number.",
)
@format_option("text", "json")
@pass_app
def acknowledge(app: App, report_id: str, reference: str, output_format: str) -> None:
    """Note that a recipient has confirmed a package.

    Files of the report can be purged from quarantine only after this. Reporting services confirm
    reports by themselves; other bodies can send a signed answer (`report receive`).

    \b
      hashclient report acknowledge r-3kdz7wnq2m --reference 'case 4711/26'
    """
    with open_record(app) as record:
        report = open_outbox(app).acknowledge(report_id, reference, record)
    text = f"acknowledged {report.id}: {printable(reference)}"
    app.show(output_format, report_document(report), text)


@command.command("retract")
@click.argument("report_id", metavar="REPORT", shell_complete=REPORTS)
@reason_option()
@format_option("text", "json")
@pass_app
def retract(app: App, report_id: str, reason: str, output_format: str) -> ExitCode:
    """Retract a report, as far as this is still possible.

    An unsent report is dropped. An unfinished report at a service is retracted there. For a package
    that was handed over, a signed note of retraction is put beside it. A finished report at a
    service cannot be changed.

    \b
      hashclient report retract r-3kdz7wnq2m --reason 'entry withdrawn'
    """
    with _sender(app, ()) as sender:
        return _show_attempts(app, [sender.retract(report_id, reason=reason)], output_format)


@contextlib.contextmanager
def _sender(
    app: App,
    identity_paths: tuple[Path, ...],
    *,
    allow_closed: bool = False,
    unreviewed: str | None = None,
) -> Iterator[Sender]:
    from hashclient.cli.progress import bytes_progress
    from hashclient.quarantine.age import load_identities
    from hashclient.reporting.submit import Sender

    identities = [key for path in identity_paths for key in load_identities(path)]
    with open_record(app) as record, bytes_progress(app, "sent") as on_bytes:
        yield Sender(
            open_outbox(app),
            record,
            identities=identities,
            on_bytes=on_bytes,
            allow_closed=allow_closed,
            unreviewed=unreviewed,
        )


def _unreported(
    outbox: Outbox, record: Matches, destination: str | None
) -> tuple[list[Match], int]:
    """Return the matches to report to `destination`, and how many more wait for a review."""
    from hashclient.reporting.destinations.registry import find_destination

    name, _ = find_destination(outbox.settings.config.report, destination)
    known = outbox.reported(name)
    policy, reviews = outbox.policy, record.all_reviews()
    candidates = [
        m
        for m in record.find()
        if m.id not in known
        and m.state is not MatchState.HELD
        and not policy.ended(m, reviews.get(m.id, ()))
    ]
    chosen = [m for m in candidates if not policy.waits(m, reviews.get(m.id, ()))]
    return chosen, len(candidates) - len(chosen)


def _prepare_wanted(app: App, *, unreviewed: bool) -> list[HashclientError]:
    """Prepare the reports that scans have requested but not prepared; return the failures."""
    from hashclient.scan.run.actions import prepare_wanted

    made = prepare_wanted(app.session, unreviewed=unreviewed)
    return [error for error in made if isinstance(error, HashclientError)]


def _one_after_another(attempts: Iterator[Sent]) -> Iterator[Sent | HashclientError]:
    """Yield the attempts to send; if an error ends the attempts, yield the error."""
    try:
        yield from attempts
    except LockedError:
        raise
    except HashclientError as error:
        yield error


def _one_by_one(
    sender: Sender, report_ids: Sequence[str], again: bool
) -> Iterator[Sent | HashclientError]:
    """Send each of the given reports, and yield its attempt or its error."""
    for report_id in report_ids:
        try:
            yield sender.send(report_id, again=again)
        except LockedError:
            raise
        except HashclientError as error:
            if len(report_ids) == 1 and isinstance(error, UsageError):
                raise
            yield error


def _show_rehearsals(
    app: App, rehearsals: Iterable[tuple[Report, Rehearsal]], output_format: str
) -> ExitCode:
    """Print what would be sent; return `INCOMPLETE` if a report could not be sent completely."""
    from hashclient.formats.cells import words

    code, documents, nothing = ExitCode.OK, [], "no report waits"
    for report, found in rehearsals:
        nothing = ""
        texts = {name: text.decode() for name, text in found.texts.items()}
        about = {"report": report.id, "to": report.destination, "texts": texts}
        documents.append({**about, "files": list(found.files), "missing": list(found.missing)})
        code = max(code, ExitCode.INCOMPLETE if found.missing else ExitCode.OK)
        if output_format == "text":
            app.out(f"{report.id} to {report.destination}")
            for name, text in texts.items():
                app.out("\n".join([f"{name}:", *map(words, text.rstrip().splitlines())]))
            for name in found.files:
                app.out(f"file {name}")
        for missing in found.missing:
            app.warn(f"report {report.id}: {missing}")
    app.show(output_format, {"reports": documents}, (), nothing=nothing)
    return code


def _show_attempts(
    app: App, attempts: Iterable[Sent | HashclientError], output_format: str, nothing: str = ""
) -> ExitCode:
    """Print the result of each attempt when it is known; return the worst exit code.

    If there is no attempt, print the message `nothing`.
    """
    code = ExitCode.OK
    documents = []
    for sent in attempts:
        nothing = ""
        if isinstance(sent, HashclientError):
            code = max(code, sent.exit_code)
            app.warn(sent.message, sent.hint)
            continue
        report = sent.report
        documents.append(
            {**report_document(report), "detail": sent.detail, "notes": list(sent.notes)}
        )
        if sent.error is not None:
            code = max(code, sent.error.exit_code)
            app.warn(f"report {report.id}: {sent.error.message}", sent.error.hint)
        elif output_format == "text":
            app.out(f"{report.id}  {printable(sent.detail)}")
        for note in sent.notes:
            code = max(code, ExitCode.INCOMPLETE)
            app.warn(f"report {report.id}: {note}")
    app.show(output_format, {"reports": documents}, (), nothing=nothing)
    return code


for _command in (status, export, verify, receive, certificate):
    command.add_command(_command)
