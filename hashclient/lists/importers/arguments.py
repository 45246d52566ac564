"""Digests from the command line."""

from __future__ import annotations

from collections.abc import Sequence

from hashclient.errors import UsageError
from hashclient.lists.importers.interface import DigestBatch
from hashclient.lists.importers.rows import BY_HEX_DIGITS, HEX, Rows

DIGEST_HINT = "give an MD5, SHA-1 or SHA-256 in hexadecimal; --from reads files of them"


def digests_of_arguments(arguments: Sequence[str]) -> DigestBatch:
    """Return typed digests as a batch; their numbers from 1 serve as line numbers.

    Raises:
        UsageError: an argument is no digest.
    """
    rows = Rows()
    for number, argument in enumerate(arguments, 1):
        digits = argument.strip().encode("ascii", "replace")
        if HEX.fullmatch(digits) is None:
            raise UsageError(f"argument:{number}: not a digest in hexadecimal", hint=DIGEST_HINT)
        algorithm = BY_HEX_DIGITS.get(len(digits))
        if algorithm is None:
            what = f"no digest has {len(digits)} hexadecimal digits"
            raise UsageError(f"argument:{number}: {what}", hint=DIGEST_HINT)
        rows.add(number, None)
        rows.add_hex(algorithm, digits)
    return rows.batch()
