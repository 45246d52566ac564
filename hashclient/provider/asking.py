"""Questions about the lists of a repository, answered without changes and without the lock.

Segments never change, and unreferenced ones stay for a day. Answers hold counts and ids, never a
digest.
"""

from __future__ import annotations

from collections.abc import Sequence

from hashclient.lists.wire import AddBatch
from hashclient.provider.changes import require_list
from hashclient.provider.find import Questions
from hashclient.provider.keys import Roles
from hashclient.provider.listing import Listing, segments_between
from hashclient.provider.repository import Repository
from hashclient.provider.results import Answer, Difference, Overview


def overview(repository: Repository, list_name: str) -> Overview:
    """Return a list in numbers.

    Raises:
        UsageError: there is no such list.
        StateError: there is no repository, or it is corrupt.
    """
    roles = _roles_with(repository, [list_name])
    index = repository.files.current(roles, list_name)
    keyids, threshold = roles.key_policy(list_name)
    listing = Listing(with_ids=False)
    for _, batch in repository.files.batches(roles, list_name, index.segments):
        if isinstance(batch, AddBatch):
            listing.add(batch)
        else:
            listing.withdraw(batch)
    return listing.overview(index, len(keyids), threshold)


def difference(
    repository: Repository, list_name: str, first: int, last: int | None = None
) -> Difference:
    """Return the changes of a list from generation `first` to `last`, or to the newest.

    Raises:
        UsageError: there is no such list, or no such generation; one may have been joined with
            others.
        StateError: there is no repository, or it is corrupt.
    """
    roles = _roles_with(repository, [list_name])
    index = repository.files.current(roles, list_name)
    last = index.generation if last is None else last
    listing = Listing(with_ids=True)
    segments = segments_between(index, first, last)
    for _, batch in repository.files.batches(roles, list_name, segments):
        if isinstance(batch, AddBatch):
            listing.add(batch)
        else:
            listing.withdraw(batch)
    return listing.difference(list_name, first, last)


def find(repository: Repository, questions: Questions, lists: Sequence[str] = ()) -> list[Answer]:
    """Answer questions about `lists`, or about all there are.

    Raises:
        UsageError: there is no such list.
        StateError: there is no repository, or it is corrupt.
    """
    roles = _roles_with(repository, lists)
    for name in lists or sorted(roles.lists):
        questions.begin()
        index = repository.files.current(roles, name)
        for segment, batch in repository.files.batches(roles, name, index.segments):
            if isinstance(batch, AddBatch):
                questions.add(batch, name, segment)
            else:
                questions.withdraw(batch, segment)
    return questions.answers()


def _roles_with(repository: Repository, lists: Sequence[str]) -> Roles:
    roles = repository.load()
    for name in lists:
        require_list(roles, name)
    return roles
