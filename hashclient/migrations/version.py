"""The version of a state directory, in the file `state.json`, which every command reads first.

`state.json` contains the version of the state, and the lowest version of hashclient that can read
this state. So an older hashclient can refuse the state, and say which version to install. A state
without `state.json` has version 0, because nobody has written to it under the lock yet.
"""

import re

import msgspec

from hashclient.core.errors import StateError
from hashclient.core.version import __version__
from hashclient.system.files import MAX_TEXT_BYTES, read_regular, state_error, write_atomic
from hashclient.system.layout import Layout
from hashclient.system.text import excerpt, printable
from hashclient.system.versions import older

FORMAT = "hashclient-state"
_FORMAT = rf"{FORMAT}/(0|[1-9][0-9]{{0,8}})"


#: The version of the first release. Lower versions are from before the first release.
FIRST = 4
#: `CURRENT`: the present version of the state. `READABLE`: the lowest version that this hashclient
#: reads without a migration. The last step of `migrate` has the version `CURRENT`, but checking a
#: version should not import `migrate`.
CURRENT = 4
READABLE = 0


class Version(msgspec.Struct, frozen=True):
    """The version of a state directory, and the lowest hashclient that can read it.

    `migrating`: whether a migration to the next version has begun and has not succeeded yet.
    `exceptions`: how often the file of exceptions was written, so that an older or a missing file
    is noticed.
    """

    number: int = 0
    needs: str = ""
    migrating: bool = False
    exceptions: int = 0


class _Document(msgspec.Struct, frozen=True):
    """The content of `state.json`, to which later versions may add fields."""

    format: str
    needs: str
    written_by: str
    migrating: bool = False
    exceptions: int = 0


def read_version(layout: Layout) -> Version:
    """Return the version of a state directory, which may be missing.

    Raises:
        StateError: `state.json` cannot be read, or is damaged.
    """
    path = layout.state
    try:
        data = read_regular(path, MAX_TEXT_BYTES)
    except (FileNotFoundError, NotADirectoryError):
        return Version()
    except OSError as error:
        raise state_error("cannot read the version of the state", path, error) from error
    try:
        document = msgspec.json.decode(data, type=_Document)
    except (ValueError, RecursionError) as error:
        raise _damaged(layout) from error
    format_ = re.fullmatch(_FORMAT, document.format)
    if format_ is None:
        raise _damaged(layout)
    return Version(int(format_[1]), document.needs, document.migrating, document.exceptions)


def write_version(layout: Layout, version: Version) -> None:
    """Write the version of a state directory in one step.

    Raises:
        StateError: `state.json` cannot be written.
    """
    document = _Document(
        f"{FORMAT}/{version.number}",
        version.needs,
        __version__,
        version.migrating,
        version.exceptions,
    )
    write_atomic(layout.state, msgspec.json.format(msgspec.json.encode(document)) + b"\n")


def refuse_foreign(layout: Layout, version: Version, known: int) -> None:
    """Refuse a state whose version is above `known`, or from before the first release.

    Raises:
        StateError: the state is refused; for a newer state, the message says which hashclient it
            needs.
    """
    if 0 < version.number < FIRST:
        raise older(layout.root, f"{FORMAT}/{version.number}")
    if version.number > known:
        raise StateError(
            f"the state directory needs hashclient {excerpt(version.needs)} or later, this is "
            f"{__version__}:"
            f" {printable(layout.root)}",
            hint="install that version, or use another --state-dir; nothing was changed",
        )


def _damaged(layout: Layout) -> StateError:
    return StateError(
        f"the version of the state is damaged: {printable(layout.state)}",
        hint="restore the file from a backup",
    )
