"""Publishes the status of this machine.

1. Only one process publishes at a time, so an older document never replaces a newer one.
2. A document has a number that no other has: it is kept before the document is made.
3. The document takes the place of the one before it in one step.
4. Only then a failure is forgotten: a kill leaves it on record.
"""

from __future__ import annotations

from msgspec.structs import replace

from hashclient.fleet.making import make_document
from hashclient.fleet.places import place_at
from hashclient.session import Session
from hashclient.status.published import keep, load_published
from hashclient.status.status import Status
from hashclient.system.files import make_private_dir, writer_lock
from hashclient.system.layout import PUBLISHED_NAME, ROOM_LOCK_NAME

#: How long to wait for another process that publishes.
LOCK_WAIT_S = 30.0


def publish(session: Session, status: Status, where: str) -> str:
    """Publish the status in a directory or a bucket; return the place as people see it.

    What `status` has about publications is brought up to date, however this one ends.

    Raises:
        HashclientError: it could not be published; what is there stays.
    """
    place = place_at(where)
    layout = session.settings.layout
    path = make_private_dir(layout.fleet) / PUBLISHED_NAME
    with writer_lock(layout.fleet / ROOM_LOCK_NAME, wait_s=LOCK_WAIT_S):  # 1
        before = load_published(layout)
        begun = replace(before, counter=before.counter + 1, failures=before.failures + 1)
        keep(path, begun)  # 2
        status.published = begun
        document, data = make_document(session, status, begun.counter, before.failures)
        place.write(document.machine.file_name, data)  # 3
        done = replace(begun, at=document.made, failures=0)
        keep(path, done)  # 4
        status.published = done
    return place.text
