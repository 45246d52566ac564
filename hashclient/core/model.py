"""The values that all packages use: hits, outcomes, lists and their problems.

All values in this module are frozen. If a run has many values of a type, the type has `gc=False`,
because its values are never part of a reference cycle, so the garbage collector can ignore them.
This module does no I/O and does not know formats of output.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any

import msgspec

from hashclient.core.kinds import Action, Algorithm, Kind, MatchState

#: The names of lists, providers, roles and parts of target names. Target names are used in URLs
#: without escaping, so names contain no characters with a meaning in a URL or a file system.
NAME_PATTERN = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
MAX_ENTRY_ID_BYTES = 64
_HEX = frozenset("0123456789abcdefABCDEF")
_OF_IDS = frozenset("0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ._:-")
#: The largest number of lists that a provider may have (`docs/format.md`), because every scan
#: reports each list.
MAX_LISTS = 256
#: A time in a document must have a zone, because a time without a zone cannot be compared with the
#: clock.
Time = Annotated[datetime, msgspec.Meta(tz=True)]


def is_name(text: str) -> bool:
    """Return whether `text` may name a list, a provider or a part of a target path."""
    return NAME_PATTERN.fullmatch(text) is not None and ".." not in text


def is_entry_id(text: str) -> bool:
    """Return whether `text` may be an entry id, which must not look like a digest."""
    if not 1 <= len(text) <= MAX_ENTRY_ID_BYTES or not _OF_IDS.issuperset(text):
        return False
    return len(text) not in (32, 40, 64) or not _HEX.issuperset(text)


class Hit(msgspec.Struct, frozen=True, gc=False):
    """An entry that has at least one digest in common with an input.

    `algorithms`: the algorithms whose digests agree. `complete`: True if all digests that both the
    entry and the input have agree, which is a match; False if other digests of the entry disagree.
    `withdrawn_generation`, `withdrawn_at`: when the entry was withdrawn; None if it was not
    withdrawn, and in the hits that a run finds.
    """

    list_name: str
    entry: str
    category: str
    generation: int
    algorithms: tuple[Algorithm, ...]
    complete: bool
    withdrawn_generation: int | None = None
    withdrawn_at: datetime | None = None

    @property
    def stands(self) -> bool:
        """Whether the entry is still on the list."""
        return self.withdrawn_generation is None


#: The fields of a hit that each output has: the entry, and the algorithms that agree.
ENTRY_FIELDS = ("list", "entry", "category", "generation", "algorithms")
#: The fields of a hit in the audit log, which contains complete and partial hits.
LOGGED_FIELDS = (*ENTRY_FIELDS, "complete")


def hit_fields(hit: Hit, names: tuple[str, ...] = ENTRY_FIELDS) -> dict[str, Any]:
    """Return the fields `names` of `hit`, in this order, as JSON values; no field is a digest.

    Only `hit_fields` converts a hit to JSON. `names` is `ENTRY_FIELDS` if all hits are complete,
    and `LOGGED_FIELDS` if some are partial; `withdrawn_generation` is added if the hit comes from
    the record of matches.
    """
    fields = {
        "list": hit.list_name,
        "entry": hit.entry,
        "category": hit.category,
        "generation": hit.generation,
        "algorithms": [a.label for a in hit.algorithms],
        "complete": hit.complete,
    }
    # most calls ask for `LOGGED_FIELDS`, and a scan may log very many hits
    if names is LOGGED_FIELDS:
        return fields
    fields["withdrawn_generation"] = hit.withdrawn_generation
    return {name: fields[name] for name in names}


class MatchRef(msgspec.Struct, frozen=True, gc=False):
    """The recorded match of an outcome: its id, its state and its times.

    `in_place`: False after the file was isolated. `held`: True while the match waits for a person
    and no action on it is allowed.
    """

    id: str
    state: MatchState
    first_seen: datetime
    last_seen: datetime
    in_place: bool = True
    held: bool = False


class HeldEntry(msgspec.Struct, frozen=True):
    """An entry with held matches: how many files it matched, and what was done with them.

    A file that was isolated and reported counts as isolated only.
    """

    list: str
    entry: str
    matched: int
    isolated: int
    reported: int
    held: int

    @property
    def text(self) -> str:
        """The numbers of files of the entry as a sentence."""
        other = self.matched - self.isolated - self.reported - self.held
        parts = {
            "isolated": self.isolated,
            "reported": self.reported,
            "without an action": other,
            "held": self.held,
        }
        done = ", ".join(f"{n:,} {what}" for what, n in parts.items() if n)
        files = "1 file" if self.matched == 1 else f"{self.matched:,} files"
        return f"entry {self.entry} of {self.list} matched {files}: {done}"


class Acted(msgspec.Struct, frozen=True):
    """The result of an action on one match.

    `done`: whether the action was done; None in a dry run, where only the policy is evaluated.
    `detail`: for people, what was done, or why it was not done.
    """

    action: Action
    done: bool | None
    detail: str


class Mail(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """A mail, described by its header, which anybody can forge: id, sender, first recipients."""

    message_id: str | None = None
    sender: str | None = None
    recipients: tuple[str, ...] = ()


class Outer(msgspec.Struct, frozen=True):
    """The file that contains a matching member, with the facts that actions need.

    `size`: the length of the file in bytes. `tags`: the tags of the file itself. `members`: the
    number of members of the file at all depths. `mail`: the description of the file if it is a
    mail.
    """

    size: int
    tags: Mapping[Algorithm, bytes]
    members: int
    mail: Mail | None = None


class Seen(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """The device and inode numbers of the file that was read, and of its directory.

    The numbers of the directory are None if the scan follows symbolic links, because a link may
    lead to any directory. The device numbers are None if another machine has read the file, because
    device numbers differ between machines.
    """

    directory_device: int | None
    directory_inode: int | None
    device: int | None
    inode: int

    def is_directory(self, status: os.stat_result) -> bool:
        """Return whether `status` may be the status of the directory that the file was in."""
        return _is_one(status, self.directory_device, self.directory_inode)

    def is_file(self, status: os.stat_result) -> bool:
        """Return whether `status` is the status of the file."""
        return _is_one(status, self.device, self.inode)


def _is_one(status: os.stat_result, device: int | None, inode: int | None) -> bool:
    return inode in (None, status.st_ino) and device in (None, status.st_dev)


class Outcome(msgspec.Struct, frozen=True, gc=False):
    """The outcome of an input; `Recorded` and `Handled` are outcomes with more fields.

    `path` is decoded with surrogateescape, so `os.fsencode` returns the original bytes. `size`: the
    size in bytes, or None if it is not known. `digests`: the computed digests, which are shown only
    on request. `tags`: the tags of a match, 16 bytes each, which are never shown. `origin`: the
    source of an input without a path. `origin` is written to logs, which never contain a digest.
    `is_stream`: `path` is the name of a stream, which has no file.

    If the input is a member of a container, `path` is the path of the file that contains it.
    `members`: the names of the members on the way to the input, from the outermost inwards, decoded
    like `path`. In `members`, an empty name stands for all remaining members of a container. For a
    member, `size`, `digests` and `tags` describe the member; a match has its file in `outer`.
    `obstacle`: a word that says why a member was not read.

    `is_object`: `path` is the URI of an object in a bucket, with its version if known. `evidence`:
    a word for the evidence on which the outcome rests, if the input was not read. `seen`: the file
    that matched, or the file that contains the matching member; only matches and conflicts of files
    have `seen`.

    `door`: the client that asked a daemon about the file. `exceptions`: the ids of the rulings by
    which the input is excepted.
    """

    kind: Kind
    path: str
    size: int | None = None
    reason: str | None = None
    hits: tuple[Hit, ...] = ()
    digests: Mapping[Algorithm, bytes] = msgspec.field(default_factory=dict)
    origin: str | None = None
    tags: Mapping[Algorithm, bytes] = msgspec.field(default_factory=dict)
    is_stream: bool = False
    members: tuple[str, ...] = ()
    outer: Outer | None = None
    obstacle: str | None = None
    is_object: bool = False
    evidence: str | None = None
    seen: Seen | None = None
    door: str | None = None
    exceptions: tuple[str, ...] = ()

    @property
    def mail(self) -> Mail | None:
        """The mail that contains the match, if it is known."""
        return None if self.outer is None else self.outer.mail

    @property
    def place(self) -> str:
        """The path with the names of members, as people see it: `outer.zip!/inner/a.jpg`.

        Each `!` in the name of a member is doubled, so an odd number of `!` before a slash ends a
        name.
        """
        return "!/".join((self.path, *(name.replace("!", "!!") for name in self.members)))


class Recorded(msgspec.Struct, frozen=True, gc=False):
    """An outcome after it was recorded and logged, where necessary.

    `record`: the recorded match; None if the outcome is no match, has no file, or could not be
    recorded.
    """

    outcome: Outcome
    record: MatchRef | None = None


class Handled(msgspec.Struct, frozen=True, gc=False):
    """An outcome after all actions on it, which can now be shown.

    `record`: the recorded match after the actions. `acted`: the results of the actions.
    """

    outcome: Outcome
    record: MatchRef | None = None
    acted: tuple[Acted, ...] = ()

    @property
    def is_unrecorded(self) -> bool:
        """Whether a match could not be recorded, for example because the disk is full."""
        return self.record is None and self.outcome.kind in (Kind.MATCH, Kind.EXCEPTED)


class MissingList(msgspec.Struct, frozen=True):
    """A list that should be on this machine but cannot be used.

    No input was compared with a missing list.

    A list should be on this machine if the configuration or the provider's last verified metadata
    names it. `name`: None if no list of `provider` was ever fetched, so that its lists are not
    known. `provider`: None if damage hides the list's provider. `problem`: the problem in a few
    words, for example "never fetched".
    """

    name: str | None
    provider: str | None
    problem: str


class Invocation(msgspec.Struct, frozen=True):
    """The caller of a command: host, user, working directory and paths.

    `user`: the user, spelled as in the audit log. `directory`: the working directory, or None if it
    was removed. `paths`: the paths in the arguments, or the first of many. `omitted`: the number of
    paths that were left out.
    """

    host: str
    user: str
    directory: str | None
    paths: tuple[str, ...] = ()
    omitted: int = 0


class Gap(msgspec.Struct, frozen=True):
    """Entries of one list that digests of some algorithms cannot rule out.

    `rows`: the number of inputs that had digests of `algorithms` only. `entries`: the number of the
    list's `live` entries that have no digest of `algorithms`, so that an input with only such
    digests may be one of them.
    """

    list_name: str
    algorithms: tuple[Algorithm, ...]
    entries: int
    live: int
    rows: int

    @property
    def text(self) -> str:
        """A sentence on these entries, such as `other: 12 of 2,000,000 entries have no md5`."""
        kinds = [algorithm.label for algorithm in self.algorithms]
        lack = f"no {kinds[0]}" if len(kinds) == 1 else f"neither {' nor '.join(kinds)}"
        verb = "has" if self.entries == 1 else "have"
        return f"{self.list_name}: {self.entries:,} of {self.live:,} entries {verb} {lack}"
