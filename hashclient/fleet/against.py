"""Checkpoints of this machine's audit log that are kept where documents of machines are."""

from __future__ import annotations

from hashclient.audit.record import Checkpoint, Identity, parse_checkpoint
from hashclient.errors import AuditError, VerificationError
from hashclient.fleet.document import SUFFIX, verify_status
from hashclient.fleet.places import Bucket, Folder


def checkpoints_at(place: Folder | Bucket, identity: Identity) -> list[Checkpoint]:
    """Return the checkpoints of a log: those in status documents, and files with one each.

    Everything else there is passed over, be it of other machines, damaged or forged.

    Raises:
        AuditError: there is none, so nothing shows what this log had.
        HashclientError: the place cannot be read.
    """
    found = []
    for one in place.read(SUFFIX, ".json"):
        try:
            checkpoint = verify_status(one.data).checkpoint
        except VerificationError:
            try:
                checkpoint = parse_checkpoint(one.data, trim=True)
            except AuditError:
                continue
        if checkpoint.identity == identity:
            found.append(checkpoint)
    if not found:
        raise AuditError(
            f"no checkpoint of this log is there: {place.text}",
            hint="if this machine has published there, its log was replaced by another one",
        )
    return found
