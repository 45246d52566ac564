"""The notices in a draft: checks that new ones are here, whole and readable.

The errors of this module are also those of `drafts`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
from tuf.api.metadata import Metadata

from hashclient.core.model import is_name
from hashclient.notices.document import Notice, parse_notice
from hashclient.provider.draftlists import is_sha256, read_signed, refuse
from hashclient.trust.noticerole import MAX_NOTICES, NOTICES


class NoticeChange(msgspec.Struct, frozen=True):
    """The change of the notices in a draft: new ones, and the ids of those that are taken out."""

    added: tuple[Notice, ...]
    removed: tuple[str, ...]


def verify_notices(
    directory: Path, before: Metadata[Any] | None, role: Metadata[Any], files: dict[str, Path]
) -> NoticeChange | None:
    """Verify the new notices, and add their files to `files`; None says that nothing changes."""
    old = {} if before is None else before.signed.targets
    targets = role.signed.targets
    if role.signed.delegations is not None:
        refuse(f"role {NOTICES} delegates to others")
    if len(targets) > MAX_NOTICES:
        refuse(f"role {NOTICES} has more than {MAX_NOTICES:,} notices")
    added = []
    for path, target in targets.items():
        folder, _, name = path.partition("/")
        notice_id = name.removesuffix(".json")
        if folder != NOTICES or name == notice_id or not is_name(notice_id):
            refuse(f"role {NOTICES} names a file that is no notice")
        if not is_sha256(target.hashes):
            refuse(f"role {NOTICES} names a file by something else than a digest")
        if old.get(path) == target:
            continue
        if path in old:
            refuse("a notice that is published is changed")
        files[path] = directory / "files" / NOTICES / f"{target.hashes['sha256']}.{name}"
        added.append(parse_notice(read_signed(files[path], target), notice_id))
    gone = old.keys() - targets.keys()
    if not added and not gone:
        return None
    added.sort(key=lambda notice: (notice.sent, notice.id))
    removed = (path.removeprefix(f"{NOTICES}/").removesuffix(".json") for path in gone)
    return NoticeChange(tuple(added), tuple(sorted(removed)))
