"""`hashclient-verify answer`: writes a signed answer to a package that verifies."""

from __future__ import annotations

import argparse
import secrets
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from hashclient.cli.officer.age import opener_of
from hashclient.cli.officer.openssl import sign_with
from hashclient.core.errors import UsageError, VerificationError
from hashclient.packages.answer import FORMAT, Answer, Request, encode_answer, parse_answer
from hashclient.packages.verify import verify_package
from hashclient.system.outputs import write_new


def run(words: Sequence[str]) -> int:
    """Write the answer that the command line `words` describes.

    Raises:
        HashclientError: the package does not verify, or the answer cannot be made.
    """
    parser = _parser()
    options = parser.parse_args(words)
    opener = opener_of(options.identity) if options.identity else None
    found = verify_package(options.package, opener=opener, public_key=options.public_key)
    ids = [match.id for match in found.document.matches]
    chosen = options.match or ids
    if not {*chosen, *options.refuse} <= {*ids}:
        raise UsageError("the package lacks a match with one of these ids")
    asked: list[Literal["keep", "destroy", "retract"]] = []
    asked += ["keep"] if options.keep_until else []
    asked += ["destroy"] if options.destroy else []
    asked += ["retract"] if options.retract else []
    if asked and options.text is None:
        parser.error("a request needs --text with the order of the authority")
    public_key, sign = sign_with(options.key)
    answer = Answer(
        FORMAT,
        secrets.token_hex(16),
        datetime.now(UTC),
        options.body,
        found.document.report,
        found.custody.identity.log_id,
        found.public_key,
        options.reference,
        tuple(match_id for match_id in ids if match_id not in options.refuse),
        tuple(match_id for match_id in ids if match_id in options.refuse),
        tuple(
            Request(
                word, tuple(chosen), options.keep_until if word == "keep" else None, options.text
            )
            for word in asked
        ),
        public_key.hex(),
    )
    text = encode_answer(answer, sign)
    try:
        parse_answer(text)
    except VerificationError as error:
        raise UsageError("a text is too long, or has a control character") from error
    write_new(options.output, text, mode=0o644)
    return 0


def _day(text: str) -> datetime:
    """Return the end of a day, because a file that is kept until a day is also kept on this day."""
    return datetime.strptime(text, "%Y-%m-%d").replace(hour=23, minute=59, second=59, tzinfo=UTC)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="hashclient-verify answer",
        description="Write a signed answer to a package that verifies. All its matches are "
        "accepted, except those of --refuse. Requests are about all matches, or only about those "
        "of --match.",
    )
    add = parser.add_argument
    add("package", metavar="PACKAGE", type=Path)
    add("--identity", metavar="FILE", action="append", type=Path, default=[], help="a secret key")
    add("--public-key", metavar="HEX", help="the reporter's audit key")
    add("--key", metavar="PEM", required=True, type=Path, help="the key that signs, Ed25519")
    add("--body", metavar="TEXT", required=True, help="who answers")
    add("--reference", metavar="TEXT", help="your reference for the report, such as a case number")
    add("--refuse", metavar="ID", action="append", default=[], help="a match that is not accepted")
    add(
        "--match",
        metavar="ID",
        action="append",
        default=[],
        help="a match that the requests are about",
    )
    add(
        "--keep-until",
        metavar="DAY",
        type=_day,
        help="keep the sealed files until the end of this day (UTC), as YYYY-MM-DD",
    )
    add("--destroy", action="store_true", help="destroy the sealed files")
    add("--retract", action="store_true", help="retract the report")
    add("--text", metavar="TEXT", help="the order of the authority for the requests")
    add("--output", metavar="FILE", required=True, type=Path, help="a new file for the answer")
    return parser
