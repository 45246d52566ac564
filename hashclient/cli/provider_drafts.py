"""`provider draft`: changes that people sign apart, before they are published."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hashclient.cli.app import App, existing_path, format_option, pass_app
from hashclient.cli.notices import lines_of
from hashclient.cli.provider_keys import passphrase_option, passphrases
from hashclient.cli.provider_options import repo_argument, repository_at, warn_expiring
from hashclient.errors import ExitCode, UsageError
from hashclient.system.text import for_people, printable

if TYPE_CHECKING:
    from hashclient.provider.drafts import Draft

_draft = click.argument("draft", metavar="DRAFT", type=existing_path())


def _root(*, required: bool) -> Callable[[Any], Any]:
    return click.option(
        "--root",
        type=existing_path(dir_okay=False),
        metavar="FILE",
        required=required,
        help="The root.json that you know: refuse a draft of another repository.",
    )


@click.group("draft", short_help="Look at a draft, sign it, and publish it.")
def draft() -> None:
    """Look at a draft, sign it, and publish it when enough people have signed.

    A draft is a directory that --draft of `publish`, `withdraw`, `consolidate`, `renew`, `rotate`
    or `notice` has made. Pass it on as it is, or give everybody a copy and gather the files in its
    `signatures/`.

    \b
      hashclient provider draft show change
      hashclient provider draft sign change --root root.json \\
        --draft-digest 5f0c... --key alice.pem
      hashclient provider draft publish /srv/lists change
    """


@draft.command("show")
@_draft
@_root(required=False)
@format_option("text", "json")
@pass_app
def show(app: App, draft: Path, root: Path | None, output_format: str) -> ExitCode:
    """Verify a draft, and show what it changes and who has signed it.

    All numbers are counted in the files that are signed, not taken from words in the draft.

    \b
      hashclient provider draft show change --root root.json

    Exit codes: 0 enough have signed, 3 not yet, 6 the draft is refused; all are in
    `hashclient --help`.
    """
    found = _load(app, draft, root)
    _show(app, found, output_format)
    is_signed = all(not policy["missing"] for role in _roles(found) for policy in role["policies"])
    return ExitCode.OK if is_signed else ExitCode.INCOMPLETE


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
    help="The digest that `show` printed: refuse any other draft. [default: asked for at the"
    " terminal]",
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
    """Verify a draft, and add a signature with your key to each role that it counts for.

    Look at it with `show` first, and give the digest that it prints: anyone who can write to DRAFT
    could exchange it in between. At a terminal, the draft is shown again and you are asked. --root
    is the root.json that you know: without it, the person who made the draft could also have made
    all metadata before it. A key that counts for nothing in the draft is refused, and so is a draft
    that holds a signature that is none.

    \b
      hashclient provider draft sign change --root root.json \\
        --draft-digest 5f0c... --key alice.pem
    """
    from hashclient.provider.drafting import open_signer, sign_draft
    from hashclient.provider.drafts import verify_digest

    found = _load(app, draft, root)
    if shown is not None:
        verify_digest(found, shown)
    elif not (sys.stdin.isatty() and app.has_terminal()):
        raise UsageError(
            "--draft-digest is missing, and there is no terminal to ask at",
            hint="`hashclient provider draft show` prints it",
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

    Refused: a draft of another generation than the one that is published, a signature of a key that
    does not count, two of one key, and a draft that was changed after it was signed.

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


def _load(app: App, draft: Path, root: Path | None) -> Draft:
    """Load a draft, of the repository whose root is in a file.

    Raises:
        UsageError: the root, or the draft, cannot be read.
        VerificationError: the draft is refused, or is of another repository.
    """
    from hashclient.provider.drafts import load_draft, verify_root
    from hashclient.system.files import MAX_STATE_BYTES, read_regular

    if root is not None:
        app.refuse_shared(root, "root.json")
    found = load_draft(draft)
    if root is not None:
        try:
            known = read_regular(root, MAX_STATE_BYTES)
        except OSError as error:
            raise UsageError(f"cannot read {printable(root)}: {error.strerror or error}") from error
        verify_root(found, known)
    return found


def _show(app: App, found: Draft, output_format: str) -> None:
    app.show(output_format, _document(found), _lines(found), indent=2)


def _lines(found: Draft) -> Iterator[str]:
    """Yield the lines about a draft: what it changes, and who has signed it."""
    by = "" if found.head.by is None else f" by {printable(found.head.by)}"
    yield f"draft of {for_people(found.head.made)}{by}"
    yield f"draft digest {found.digest}"
    yield f"follows root.json sha256 {found.root_sha256}"
    for name, change in found.lists.items():
        yield (
            f"list {name}: generation {change.generation}: {change.added:,} added,"
            f" {change.withdrawn:,} withdrawn, {change.live:,} live"
        )
        if change.replaced:
            yield f"  in place of {change.replaced:,} files that are published: they are joined"
        for category, count in change.categories.items():
            yield f"  added in category {category}: {count:,}"
    if found.notices is not None:
        for notice in found.notices.added:
            yield f"notice {notice.id} is new"
            yield from lines_of(notice)
        for notice_id in found.notices.removed:
            yield f"notice {notice_id} is taken out"
    for name in found.ended():
        yield f"list {name} ends: clients drop it, and withdraw its matches"
    for name in found.with_other_keys():
        what = "is new" if name not in found.before else "has other keys than before"
        yield f"role {name} {what}"
    for role in _roles(found):
        until = for_people(found.roles[role["role"]].signed.expires)
        yield f"role {role['role']}: version {role['version']}, until {until}"
        for policy in role["policies"]:
            signed, threshold = len(policy["signed"]), policy["threshold"]
            what = ", which are replaced and may be lost" if policy["may"] else ""
            yield f"  {signed} of {threshold} signatures of {len(policy['keys'])} keys{what}"
            for keyid in policy["keys"]:
                mark = "signed" if keyid in policy["signed"] else "not yet"
                yield f"    {keyid[:16]} {mark}"


def _document(found: Draft) -> dict[str, Any]:
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
                "added_by_category": change.categories,
            }
            for name, change in found.lists.items()
        ],
        "notices": None if found.notices is None else msgspec.to_builtins(found.notices),
        "other_keys": found.with_other_keys(),
        "ended_lists": found.ended(),
        "roles": _roles(found),
    }


def _roles(found: Draft) -> list[dict[str, Any]]:
    from hashclient.provider.draftpolicies import policies_of

    return [
        {
            "role": name,
            "version": metadata.signed.version,
            "expires": metadata.signed.expires,
            "policies": [
                {
                    "threshold": policy.threshold,
                    "keys": sorted(policy.keys),
                    "signed": sorted(found.signed_by(name) & set(policy.keys)),
                    "may": policy.may,
                    "missing": policy.wanting(found.signed_by(name)),
                }
                for policy in policies_of(name, found.before, found.roles)
            ],
        }
        for name, metadata in sorted(found.roles.items())
    ]
