"""The values that the rest of the project speaks in: algorithms, hits, outcomes, summaries.

All are frozen. Those that a run has many of are no business of the garbage collector: such a value
is in no circle. Nothing here does I/O or knows a format.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any

import msgspec

from hashclient.core.algorithms import Algorithm
from hashclient.core.kinds import Action, Kind, MatchState

#: Names of lists, providers, roles and parts of target names. Target names go into URLs
#: unescaped, so nothing that a URL or a file system could read as something else is allowed.
NAME_PATTERN = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")


def is_name(text: str) -> bool:
    """Tell whether `text` may name a list, a provider or a part of a target path."""
    return NAME_PATTERN.fullmatch(text) is not None and ".." not in text


class Hit(msgspec.Struct, frozen=True, gc=False):
    """One entry that an input agrees with in at least one digest.

    `algorithms` are those whose digests agree. `complete` is True when every digest that both
    the entry and the input have agrees: a match; otherwise the digests of the entry disagree.
    `withdrawn_*` are None while the provider stands by the entry: always in what a run finds, and
    in what is on record until a later generation withdraws the entry.
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
        """Whether the provider has not withdrawn the entry since."""
        return self.withdrawn_generation is None


#: The fields of a hit that are written of it everywhere: which entry was hit, and by what.
ENTRY_FIELDS = ("list", "entry", "category", "generation", "algorithms")
#: And those of the audit log, which has complete and partial hits side by side.
LOGGED_FIELDS = (*ENTRY_FIELDS, "complete")


def hit_fields(hit: Hit, names: tuple[str, ...] = ENTRY_FIELDS) -> dict[str, Any]:
    """Return the fields of `hit` called `names`, in this order, as JSON values; never a digest.

    This is the only place that renders a hit. What differs from use to use is which fields are
    written: `ENTRY_FIELDS` where all hits are complete, `LOGGED_FIELDS` where they need not be, and
    with `withdrawn_generation` where the hit is one on record.
    """
    fields = {
        "list": hit.list_name,
        "entry": hit.entry,
        "category": hit.category,
        "generation": hit.generation,
        "algorithms": [a.label for a in hit.algorithms],
        "complete": hit.complete,
    }
    if names is LOGGED_FIELDS:  # all of these, in this order; a scan may log very many
        return fields
    fields["withdrawn_generation"] = hit.withdrawn_generation
    return {name: fields[name] for name in names}


class MatchRef(msgspec.Struct, frozen=True, gc=False):
    """What the record of matches says of one outcome: its id there, and its story so far.

    `in_place` is False once the file was taken away from where it was found.
    """

    id: str
    state: MatchState
    first_seen: datetime
    last_seen: datetime
    in_place: bool = True


class Acted(msgspec.Struct, frozen=True):
    """What became of an action on one match.

    `done` is None where nothing was tried, since only the policy was asked. `detail` says what was
    done, or why not, for people.
    """

    action: Action
    done: bool | None
    detail: str


class Outer(msgspec.Struct, frozen=True):
    """The file that a member is in, as far as what is done about a match needs it.

    `size` is its length in bytes, `tags` are its own sealed ones, and `members` is how many members
    there are in it, at all depths.
    """

    size: int
    tags: Mapping[Algorithm, bytes]
    members: int


class Outcome(msgspec.Struct, frozen=True, gc=False):
    """What was found of one input. What is recorded and done comes after: `Recorded`, `Handled`.

    `path` is decoded with surrogateescape, so `os.fsencode` gives back its bytes. `size` is in
    bytes, None where it is not known. `digests` holds what was computed and is shown only when
    the user asks for it; `tags` are the sealed ones of what matched, 16 bytes each, and are never
    shown. `origin` says where an input without a path came from, for logs, which never hold a
    digest. With `is_stream`, `path` is what a stream is called: there is no file.

    Of something in a container `path` is that of the file, and `members` are the names of what is
    in it and of what is in that, decoded in the same way. An empty name stands for whatever else
    is there. `size`, `digests` and `tags` are the member's; a match has its file in `outer`.
    `obstacle` says in one word why a member was not read.

    With `is_object`, `path` is the URI of an object in a bucket, with its version where that is
    known. `evidence` says in one word what an outcome rests on, where that is a question.
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

    @property
    def place(self) -> str:
        """The path with the names of members, as it is shown: `outer.zip!/inner/a.jpg`.

        Each `!` in a name of a member is doubled, so that an odd number of them before a slash ends
        a name.
        """
        return "!/".join((self.path, *(name.replace("!", "!!") for name in self.members)))


class Recorded(msgspec.Struct, frozen=True, gc=False):
    """An outcome that is recorded and logged as far as it has to be.

    `record` is None for what is no match, has no file, or could not be recorded.
    """

    outcome: Outcome
    record: MatchRef | None = None


class Handled(msgspec.Struct, frozen=True, gc=False):
    """An outcome after all that is done about it: what may be shown.

    `record` is as in `Recorded`, as the actions have left it; `acted` is what became of these.
    """

    outcome: Outcome
    record: MatchRef | None = None
    acted: tuple[Acted, ...] = ()


class ListState(msgspec.Struct, frozen=True):
    """What a scan or `status` says of one list it used.

    `fresh` is False past its expiry; `in_grace` is True while the operator lets it count then.
    """

    name: str
    generation: int
    expires: datetime
    fresh: bool
    in_grace: bool = False

    @property
    def stale(self) -> bool:
        """Whether a verdict that rests on this list needs attention."""
        return not self.fresh and not self.in_grace


class MissingList(msgspec.Struct, frozen=True):
    """A list that should be here and cannot be used, so that nothing was compared with it.

    It should be here since the configuration or the provider's last verified metadata names it.
    `name` is None where nothing was ever fetched from `provider`, so that its lists are not known;
    `provider` is None where the list is damaged in a way that hides whose it is. `problem` says in
    a few words what is wrong, such as "never fetched".
    """

    name: str | None
    provider: str | None
    problem: str


class Invocation(msgspec.Struct, frozen=True):
    """Where, by whom and for what a command was called.

    `user` is in the words of the audit log. `directory` is the working directory, None where that
    is gone. `paths` are those that were given, or the first of them; `omitted` is how many more.
    """

    host: str
    user: str
    directory: str | None
    paths: tuple[str, ...] = ()
    omitted: int = 0


class Gap(msgspec.Struct, frozen=True):
    """What digests of some algorithms cannot tell about one list.

    `rows` inputs came with digests of `algorithms` alone; of the list's `live` entries `entries`
    have a digest of none of these, so such an input may be one of them.
    """

    list_name: str
    algorithms: tuple[Algorithm, ...]
    entries: int
    live: int
    rows: int

    @property
    def text(self) -> str:
        """The gap as a sentence, such as `other: 12 of 2,000,000 entries have no md5`."""
        kinds = [algorithm.label for algorithm in self.algorithms]
        lack = f"no {kinds[0]}" if len(kinds) == 1 else f"neither {' nor '.join(kinds)}"
        verb = "has" if self.entries == 1 else "have"
        return f"{self.list_name}: {self.entries:,} of {self.live:,} entries {verb} {lack}"
