"""The isolator for files and objects; the locator of a match is either a path or a URI."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

from hashclient.config.tables import ObjectsConfig
from hashclient.core.model import Seen
from hashclient.core.objecturi import is_object_uri
from hashclient.quarantine.isolators.files import Files
from hashclient.quarantine.isolators.interface import Isolator, Spot
from hashclient.quarantine.item import Item

if TYPE_CHECKING:
    from hashclient.quarantine.isolators.objects import Objects


class Everywhere:
    """An isolator for files and for objects in buckets."""

    def __init__(self, configured: Mapping[str, ObjectsConfig]) -> None:
        """`configured` are the settings for objects from the configuration, by bucket."""
        self._files = Files()
        self._configured = configured
        self._objects: Objects | None = None

    def _of(self, locator: str) -> Isolator:
        if not is_object_uri(locator):
            return self._files
        if self._objects is None:
            from hashclient.quarantine.isolators.objects import Objects  # slow: it imports obstore

            self._objects = Objects(self._configured)
        return self._objects

    def open(self, locator: str, seen: Seen | None) -> AbstractContextManager[Spot]:
        """Open the place of a matched file or object.

        Raises:
            OSError: the place is missing, contains a symbolic link, or is not the place in which
                the scan has read the file.
        """
        return self._of(locator).open(locator, seen)

    def whereabouts(self, item: Item) -> list[str]:
        """Return a message about what is now at the path or URI of an item's original file."""
        return self._of(item.file).whereabouts(item)
