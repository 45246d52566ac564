"""`provider draft`: shows, signs and publishes changes that several people have to sign."""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import click

from hashclient.cli.app import App, existing_path, format_option, pass_app
from hashclient.cli.importing import make_reading, open_files, reading_options, say_remarks
from hashclient.cli.notices import lines_of
from hashclient.cli.provider_ask import ids_of, ids_text
from hashclient.cli.provider_keys import passphrase_option, passphrases
from hashclient.cli.provider_options import (
    read_root,
    repo_argument,
    repository_at,
    warn_expiring,
)
from hashclient.core.errors import ExitCode, UsageError
from hashclient.system.text import counted, for_people, printable

if TYPE_CHECKING:
    from hashclient.provider.drafts import Draft
    from hashclient.provider.results import Difference

_draft = click.argument("draft", metavar="DRAFT", type=existing_path())


def _root(*, required: bool) -> Callable[[Any], Any]:
    return click.option(
        "--root",
        type=existing_path(dir_okay=False),
        metavar="FILE",
        required=required,
        help="The root.json that you trust: refuse a draft of another repository.",
    )


@click.group("draft", short_help="Show a draft, sign it, and publish it.")
def draft() -> None:
    """Show a draft of a change, sign the draft, and publish it when enough people have signed.

    A draft is a directory that the option --draft of `publish`, `withdraw`, `consolidate`, `renew`,
    `rotate` or `notice` has made. Give the directory from person to person, or give everybody a
    copy and collect the files of all `signatures/` directories.

    \b
      hashclient provider draft show change
      hashclient provider draft sign change --root root.json \\
        --draft-digest 5f0c... --key alice.pem
      hashclient provider draft publish /srv/lists change
    """


@draft.command("show")
@_draft
@_root(required=False)
@click.option("--ids", "with_ids", is_flag=True, help="Show the ids of new and withdrawn entries.")
@format_option("text", "json")
@pass_app
def show(app: App, draft: Path, root: Path | None, with_ids: bool, output_format: str) -> ExitCode:
    """Verify a draft, and show its changes and who has signed it.

    All numbers are counted from the signed files, not copied from a text in the draft. Each key is
    shown with the name of its file; a key that did not count before is marked as new.

    \b
      hashclient provider draft show change --root root.json
      hashclient provider draft show change --root root.json --ids

    Exit codes: 0 enough have signed, 3 not yet, 6 the draft is refused; all are in
    `hashclient --help`.
    """
    from hashclient.provider.asking import Listing
    from hashclient.provider.drafts import load_draft

    listings = defaultdict[str, Listing](lambda: Listing(with_ids=True))
    found = _load(
        app, root, lambda: load_draft(draft, lambda name: [listings[name]] if with_ids else [])
    )
    ids = {
        name: listings[name].difference(name, change.generation - 1, change.generation)
        for name, change in found.lists.items()
        if with_ids
    }
    _show(app, found, output_format, ids)
    is_signed = all(not policy["missing"] for role in _roles(found) for policy in role["policies"])
    return ExitCode.OK if is_signed else ExitCode.INCOMPLETE


@draft.command("compare", short_help="Compare the new entries with files of your own.")
@_draft
@click.argument("files", metavar="FILE…", nargs=-1, required=True)
@_root(required=False)
@reading_options
@format_option("text", "json")
@pass_app
def compare(
    app: App,
    draft: Path,
    files: tuple[str, ...],
    root: Path | None,
    where: str | None,
    columns: tuple[str, ...],
    output_format: str,
) -> ExitCode:
    """Verify a draft, and show which of its new entries are not in FILE....

    For a person who signs and has an export of their own, in any format that `publish` reads. An
    entry is in FILE if a row has a digest of the entry, and no different digest or size. Entries
    are shown by their ids, rows are only counted, and no digest is shown.

    \b
      hashclient provider draft compare change --where 'Baseline = true' icse.csv

    Exit codes: 0 all new entries are in the files, 3 an entry is missing or differs; all codes are
    in `hashclient --help`.
    """
    from hashclient.provider.asking import compare_draft
    from hashclient.provider.find import Questions

    questions = Questions()
    reading = make_reading(where, columns)
    questions.ask(open_files(files, sys.stdin.buffer), reading)
    found, compared, others = compare_draft(draft, questions)
    _load(app, root, lambda: found)
    rows = len(questions.asked)
    text = []
    for one in compared:
        numbers = one.added - len(one.missing) - len(one.differing)
        text.append(
            f"list {one.list_name}: {one.added:,} added: {numbers:,} in the files,"
            f" {len(one.missing):,} not, {len(one.differing):,} differ"
        )
        text += [f"  not in the files: {entry_id}" for entry_id in one.missing]
        text += [f"  differs: {entry_id}" for entry_id in one.differing]
    text.append(f"{counted(rows, 'row')} in the files, {len(others):,} not in the draft")
    document = {"lists": compared, "rows": rows, "rows_not_in_draft": len(others)}
    app.show(output_format, document, text, indent=2)
    say_remarks(app, reading)
    return ExitCode.OK if all(one.is_whole for one in compared) else ExitCode.INCOMPLETE


@draft.command("sign")
@_draft
@click.option(
    "--key",
    "key_file",
    type=existing_path(dir_okay=False),
    metavar="FILE",
    required=True,
    help="Your private key.",
)
@_root(required=True)
@click.option(
    "--draft-digest",
    "shown",
    metavar="DIGEST",
    help="The digest that `show` printed: refuse any other draft. [default: ask at the terminal]",
)
@passphrase_option
@format_option("text", "json")
@pass_app
def sign(
    app: App,
    draft: Path,
    key_file: Path,
    root: Path,
    shown: str | None,
    passphrase_file: Path | None,
    output_format: str,
) -> None:
    """Verify a draft, and sign its roles with your key.

    Look at the draft with `show` first, and give the digest that `show` prints: otherwise, anyone
    who can write to DRAFT could exchange the draft in between. At a terminal, the draft is shown
    again and you have to confirm. --root is the root.json that you trust: without --root, the
    person who made the draft could also have invented all earlier metadata. A key that no role of
    the draft names is refused, and so is a draft with a wrong signature.

    \b
      hashclient provider draft sign change --root root.json \\
        --draft-digest 5f0c... --key alice.pem
    """
    from hashclient.provider.drafting import open_signer, sign_draft
    from hashclient.provider.drafts import load_draft, verify_digest

    found = _load(app, root, lambda: load_draft(draft))
    if shown is not None:
        verify_digest(found, shown)
    elif not (sys.stdin.isatty() and app.has_terminal()):
        raise UsageError(
            "--draft-digest is missing, and there is no terminal to ask for it",
            hint="`hashclient provider draft show` prints the digest",
        )
    if output_format == "text":
        _show(app, found, output_format)
    signer, roles = open_signer(found, key_file, passphrases(passphrase_file))
    what = f"{', '.join(roles)} of draft {found.digest}"
    if shown is None and not click.confirm(f"sign {what}?", err=True):
        raise UsageError("nothing was signed")
    app.say(f"signing {what}")
    signed = sign_draft(found, signer, roles)
    if output_format == "json":
        _show(app, signed, output_format)
    app.say(f"signed: {', '.join(roles)}")


@draft.command("publish")
@repo_argument
@_draft
@passphrase_option
@format_option("text", "json")
@pass_app
def publish(
    app: App, directory: Path, draft: Path, passphrase_file: Path | None, output_format: str
) -> None:
    """Publish a draft that enough people have signed.

    A draft is refused if it does not follow the published generation, if an invalid key has signed
    it, if a key has signed twice, or if the draft was changed after signing.

    \b
      hashclient provider draft publish /srv/lists change
    """
    repository = repository_at(app, directory, passphrases(passphrase_file))
    found = repository.publish_draft(draft)
    text = (
        f"role {name}: version {metadata.signed.version} is published"
        for name, metadata in sorted(found.roles.items())
    )
    app.show(output_format, _document(found), text, indent=2)
    warn_expiring(app, repository)


def _load(app: App, root: Path | None, load: Callable[[], Draft]) -> Draft:
    """Return the draft that `load` returns, after comparing it with the root in the file `root`.

    Raises:
        UsageError: the root or the draft cannot be read.
        VerificationError: the draft is refused, or belongs to another repository.
    """
    from hashclient.provider.drafts import verify_root

    found = load()
    if root is not None:
        verify_root(found, read_root(app, root))
    return found


def _show(
    app: App,
    found: Draft,
    output_format: str,
    ids: Mapping[str, Difference] = MappingProxyType({}),
) -> None:
    """Print a draft; `ids` has the ids of changed entries if the ids are shown."""
    app.show(output_format, _document(found, ids), _lines(found, ids), indent=2)


def _lines(found: Draft, ids: Mapping[str, Difference]) -> Iterator[str]:
    """Yield the lines about a draft: its changes, and who has signed it."""
    by = "" if found.head.by is None else f" by {printable(found.head.by)}"
    yield f"draft of {for_people(found.head.made)}{by}"
    yield f"draft digest {found.digest}"
    yield f"follows root.json sha256 {found.root_sha256}"
    for name, change in found.lists.items():
        yield (
            f"list {name}: generation {change.generation}: {change.added:,} added,"
            f" {change.withdrawn:,} withdrawn, {change.live:,} live"
        )
        yield from (f"  {what}: {said}" for what, said in change.provenance.facts())
        if change.replaced:
            yield f"  joins and replaces {change.replaced:,} published files"
        for category, count in change.categories.items():
            yield f"  added in category {category}: {count:,}"
        yield from ids_text(ids[name]) if name in ids else ()
    if found.notices is not None:
        for notice in found.notices.added:
            yield f"notice {notice.id} is new"
            yield from lines_of(notice)
        for notice_id in found.notices.removed:
            yield f"notice {notice_id} is taken out"
    for name in found.ended():
        yield f"list {name} ends: clients remove it, and withdraw its matches"
    for name in found.with_other_keys():
        what = "is new" if name not in found.before else "has other keys than before"
        yield f"role {name} {what}"
    if "root" in found.roles and (days := _longest(found, "roles")) != _longest(found, "before"):
        yield f"the root allows {days} days for snapshot and timestamp"
    for role in _roles(found):
        until = for_people(found.roles[role["role"]].signed.expires)
        yield f"role {role['role']}: version {role['version']}, until {until}"
        for policy in role["policies"]:
            signed, threshold = len(policy["signed"]), policy["threshold"]
            what = ", which are replaced and may be lost" if policy["may"] else ""
            yield f"  {signed} of {threshold} signatures of {len(policy['keys'])} keys{what}"
            for keyid in policy["keys"]:
                mark = "signed" if keyid in policy["signed"] else "not yet"
                who = [policy["names"].get(keyid), "new key" if keyid in policy["new"] else None]
                called = ", ".join(filter(None, who))
                yield f"    {keyid[:16]} {f'({called}) ' if called else ''}{mark}"


def _longest(found: Draft, which: str) -> int | None:
    from hashclient.provider.draftroles import longest

    allowed = longest(getattr(found, which)["root"])
    return None if allowed is None else allowed.days


def _document(found: Draft, ids: Mapping[str, Difference] = MappingProxyType({})) -> dict[str, Any]:
    import msgspec

    return {
        "made": found.head.made,
        "draft_digest": found.digest,
        "root_sha256": found.root_sha256,
        "lists": [
            {
                "list": name,
                "generation": change.generation,
                "added": change.added,
                "withdrawn": change.withdrawn,
                "live": change.live,
                "replaced_files": change.replaced,
                "provenance": change.provenance,
                "added_by_category": change.categories,
                **({"ids": ids_of(ids[name])} if name in ids else {}),
            }
            for name, change in found.lists.items()
        ],
        "notices": None if found.notices is None else msgspec.to_builtins(found.notices),
        "other_keys": found.with_other_keys(),
        "longest_days": _longest(found, "roles" if "root" in found.roles else "before"),
        "ended_lists": found.ended(),
        "roles": _roles(found),
    }


def _roles(found: Draft) -> list[dict[str, Any]]:
    from hashclient.provider.draftroles import known_keys, policies_of
    from hashclient.provider.keyfiles import name_of

    known = known_keys(found.before)
    return [
        {
            "role": name,
            "version": metadata.signed.version,
            "expires": metadata.signed.expires,
            "policies": [
                {
                    "threshold": policy.threshold,
                    "keys": sorted(policy.keys),
                    "names": {i: n for i, k in sorted(policy.keys.items()) if (n := name_of(k))},
                    "new": sorted(policy.keys.keys() - known),
                    "signed": sorted(found.signed_by(name) & set(policy.keys)),
                    "may": policy.may,
                    "missing": policy.wanting(found.signed_by(name)),
                }
                for policy in policies_of(name, found.before, found.roles)
            ],
        }
        for name, metadata in sorted(found.roles.items())
    ]
