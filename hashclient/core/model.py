"""The values that all packages share: hits, outcomes, lists and their problems.

All values are frozen. If a run has many values of a type, the garbage collector ignores the type
(`gc=False`), since its values are never part of a reference cycle. This module does no I/O and
knows no format.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any

import msgspec

from hashclient.core.kinds import Action, Algorithm, Kind, MatchState

#: Names of lists, providers, roles and parts of target names. Target names go into URLs unescaped,
#: so they have no characters with a meaning in a URL or a file system.
NAME_PATTERN = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
MAX_ENTRY_ID_BYTES = 64
_HEX = frozenset("0123456789abcdefABCDEF")
_OF_IDS = frozenset("0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ._:-")
#: The most lists that a provider may have (`docs/format.md`): every scan reports each list.
MAX_LISTS = 256


def is_name(text: str) -> bool:
    """Return whether `text` may name a list, a provider or a part of a target path."""
    return NAME_PATTERN.fullmatch(text) is not None and ".." not in text


def is_entry_id(text: str) -> bool:
    """Return whether `text` may be an entry id; a text that looks like a digest may not."""
    if not 1 <= len(text) <= MAX_ENTRY_ID_BYTES or not _OF_IDS.issuperset(text):
        return False
    return len(text) not in (32, 40, 64) or not _HEX.issuperset(text)


class Hit(msgspec.Struct, frozen=True, gc=False):
    """An entry that an input agrees with in at least one digest.

    `algorithms` are the algorithms whose digests agree. `complete` is True when every digest that
    both the entry and the input have agrees: a match; otherwise the digests of the entry disagree.
    `withdrawn_*` are None until a later generation withdraws the entry; they are always None in the
    hits that a run finds.
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
        """Whether the entry is still on the list, that is, was not withdrawn."""
        return self.withdrawn_generation is None


#: The fields of a hit that are written everywhere: the entry, and the algorithms that agree.
ENTRY_FIELDS = ("list", "entry", "category", "generation", "algorithms")
#: The fields of a hit in the audit log, which has complete and partial hits.
LOGGED_FIELDS = (*ENTRY_FIELDS, "complete")


def hit_fields(hit: Hit, names: tuple[str, ...] = ENTRY_FIELDS) -> dict[str, Any]:
    """Return the fields `names` of `hit`, in this order, as JSON values; never a digest.

    Only this function renders a hit. The fields depend on the use: `ENTRY_FIELDS` if all hits are
    complete, `LOGGED_FIELDS` if some hits are partial, and additionally `withdrawn_generation` if
    the hit comes from the record of matches.
    """
    fields = {
        "list": hit.list_name,
        "entry": hit.entry,
        "category": hit.category,
        "generation": hit.generation,
        "algorithms": [a.label for a in hit.algorithms],
        "complete": hit.complete,
    }
    if names is LOGGED_FIELDS:  # the usual case, made fast: a scan may log very many hits
        return fields
    fields["withdrawn_generation"] = hit.withdrawn_generation
    return {name: fields[name] for name in names}


class MatchRef(msgspec.Struct, frozen=True, gc=False):
    """The recorded match of an outcome: its id, and its history so far.

    `in_place` is False after the file was isolated. `held` is True while no action on the match is
    allowed: the match waits for a person.
    """

    id: str
    state: MatchState
    first_seen: datetime
    last_seen: datetime
    in_place: bool = True
    held: bool = False


class HeldEntry(msgspec.Struct, frozen=True):
    """An entry with held matches: the number of its recorded files, and how many had which action.

    A file that was isolated counts as isolated, whether it was reported or not.
    """

    list: str
    entry: str
    matched: int
    isolated: int
    reported: int
    held: int

    @property
    def text(self) -> str:
        """The counts as a sentence."""
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

    `done` is None in a dry run, where only the policy is evaluated. `detail` says for people which
    act was done, or why it was not done.
    """

    action: Action
    done: bool | None
    detail: str


class Mail(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """A mail by its header, which anybody can forge: id, sender, first recipients."""

    message_id: str | None = None
    sender: str | None = None
    recipients: tuple[str, ...] = ()


class Outer(msgspec.Struct, frozen=True):
    """The file that holds a matching member, with the facts that actions need.

    `size` is the length of the file in bytes, `tags` are the tags of the file itself, and `members`
    is the number of its members, at all depths. `mail` describes the file, if it is a mail.
    """

    size: int
    tags: Mapping[Algorithm, bytes]
    members: int
    mail: Mail | None = None


class Seen(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """The file that was read, and the directory that it was in: `st_dev` and `st_ino` of both.

    The directory is None if the scan follows links: a link may lead to any directory. Devices are
    None if another machine has read the file: each machine has its own numbers of devices.
    """

    directory_device: int | None
    directory_inode: int | None
    device: int | None
    inode: int

    def is_directory(self, status: os.stat_result) -> bool:
        """Return whether `status` may be the status of the directory that the file was in."""
        return _is_one(status, self.directory_device, self.directory_inode)

    def is_file(self, status: os.stat_result) -> bool:
        """Return whether `status` belongs to the file."""
        return _is_one(status, self.device, self.inode)


def _is_one(status: os.stat_result, device: int | None, inode: int | None) -> bool:
    return inode in (None, status.st_ino) and device in (None, status.st_dev)


class Outcome(msgspec.Struct, frozen=True, gc=False):
    """The outcome of an input; `Recorded` and `Handled` add its record and the actions on it.

    `path` is decoded with surrogateescape, so `os.fsencode` gives back its bytes. `size` is in
    bytes, None if it is not known. `digests` are the computed digests, which are shown only on
    request; `tags` are the tags of a match, 16 bytes each, and are never shown. `origin` says where
    an input without a path came from. It is for logs, which never contain a digest. With
    `is_stream`, `path` is the name of a stream, which has no file.

    For a member of a container, `path` is the path of the file. `members` are the names of the
    members that lead to it, from the outermost inwards, decoded in the same way. An empty name
    means all other members. `size`, `digests` and `tags` are the member's; a match has its file in
    `outer`. `obstacle` says in one word why a member was not read.

    With `is_object`, `path` is the URI of an object in a bucket, with its version if known.
    `evidence` says in one word which evidence an outcome rests on, if the input was not read.
    `seen` is the file that matched, or that contains the matching member; only matches and
    conflicts of files have it.

    `door` names the client that asked a daemon about a file. `exceptions` are the ids of the
    rulings by which an input is excepted.
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
        """The mail that contains the match, as far as it is known."""
        return None if self.outer is None else self.outer.mail

    @property
    def place(self) -> str:
        """The path with the names of members, as it is shown: `outer.zip!/inner/a.jpg`.

        Each `!` in the name of a member is doubled, so an odd number of `!` before a slash ends a
        name.
        """
        return "!/".join((self.path, *(name.replace("!", "!!") for name in self.members)))


class Recorded(msgspec.Struct, frozen=True, gc=False):
    """An outcome after it was recorded and logged, if necessary.

    `record` is None if the outcome is no match, has no file, or could not be recorded.
    """

    outcome: Outcome
    record: MatchRef | None = None


class Handled(msgspec.Struct, frozen=True, gc=False):
    """An outcome after all actions on it; now the output may show the outcome.

    `record` is as in `Recorded`, after the actions; `acted` has the results of the actions.
    """

    outcome: Outcome
    record: MatchRef | None = None
    acted: tuple[Acted, ...] = ()


class MissingList(msgspec.Struct, frozen=True):
    """A list that should be on this machine but cannot be used, so no input was compared with it.

    The configuration or the provider's last verified metadata names the list. `name` is None if no
    list of `provider` was ever fetched, so that its lists are not known; `provider` is None if
    damage hides the list's provider. `problem` names the problem in a few words, for example "never
    fetched".
    """

    name: str | None
    provider: str | None
    problem: str


class Invocation(msgspec.Struct, frozen=True):
    """The caller of a command, with its working directory and paths.

    `user` is spelled as in the audit log. `directory` is the working directory, None if it was
    removed. `paths` are the given paths, or the first of many; `omitted` is the number of paths
    left out.
    """

    host: str
    user: str
    directory: str | None
    paths: tuple[str, ...] = ()
    omitted: int = 0


class Gap(msgspec.Struct, frozen=True):
    """Entries of one list that digests of some algorithms cannot rule out.

    `rows` inputs came with digests of `algorithms` only. Of the list's `live` entries, `entries`
    have no digest of these algorithms, so an input with only these digests may be listed.
    """

    list_name: str
    algorithms: tuple[Algorithm, ...]
    entries: int
    live: int
    rows: int

    @property
    def text(self) -> str:
        """The gap as a sentence, for example `other: 12 of 2,000,000 entries have no md5`."""
        kinds = [algorithm.label for algorithm in self.algorithms]
        lack = f"no {kinds[0]}" if len(kinds) == 1 else f"neither {' nor '.join(kinds)}"
        verb = "has" if self.entries == 1 else "have"
        return f"{self.list_name}: {self.entries:,} of {self.live:,} entries {verb} {lack}"
