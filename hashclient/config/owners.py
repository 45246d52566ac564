"""Refuses files that decide what root does, such as keys, if other users may write to them.

A user who can write to a file such as a key, or to a directory above it, decides which lists are
trusted, which files are isolated, and who receives reports. So a file that others may change is
refused, as ssh(1) refuses its keys, unless the operator allows it with `--allow-shared`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path

import msgspec

from hashclient.config.tables import PackageDestination
from hashclient.core.errors import ConfigError
from hashclient.system.strangers import Stranger, stranger_on
from hashclient.system.text import printable

#: The environment variable with the meaning of `--allow-shared`.
ALLOW_SHARED = "HASHCLIENT_ALLOW_SHARED"
#: The keys of `config.toml` that name a file whose content influences decisions.
_NAMES_A_FILE = frozenset(
    {"ca", "cert", "key", "basic_file", "client_cert", "client_key", "client_secret_file"}
    | {"known_good", "proxy_basic_file", "secret_file", "smtp_basic_file", "token_file"}
)


def allows_shared(environ: Mapping[str, str]) -> bool:
    """Return whether the environment variable `ALLOW_SHARED` is set to a true value."""
    return environ.get(ALLOW_SHARED, "").lower() in {"1", "true", "t", "yes", "y", "on"}


def files_named(table: msgspec.Struct, where: str = "") -> Iterator[tuple[str, str]]:
    """Yield the files that a table of the configuration names, each with the name of its key.

    Names that the operator has chosen, for example of providers, are no names of keys.
    """
    for name in table.__struct_fields__:
        value, place = getattr(table, name), f"{where}{name}"
        if name == "command":
            yield from ((text, place) for text in value[:1])
        # the `key` of a package's destination is a public key itself
        elif name in _NAMES_A_FILE and not (
            name == "key" and isinstance(table, PackageDestination)
        ):
            values = (value,) if isinstance(value, str) else value or ()
            yield from ((text, place) for text in values)
        else:
            tables = value if isinstance(value, Mapping) else {None: value}
            for key, inner in tables.items():
                within = f"{place}." if key is None else f"{place}.{key}."
                for one in inner if isinstance(inner, tuple) else (inner,):
                    if isinstance(one, msgspec.Struct):
                        yield from files_named(one, within)


def refuse_shared(path: str | os.PathLike[str], what: str) -> None:
    """Refuse a file or directory that other users may change; `what` names it in messages.

    A person who became root by sudo(8) does not count as another user. If the status of the path
    cannot be read, the code that opens the path reports the error.

    Raises:
        ConfigError: other users may change the file.
    """
    try:
        found = stranger_on(path, _by_sudo())
    except OSError:
        return
    if found is None:
        return
    at = "" if found.path == os.fspath(path) else f", by {printable(found.path)}"
    raise ConfigError(
        f"{what} could be changed by {found.who}: {printable(os.fspath(path))}{at}",
        hint=f"{_remedy(found)}; if this is intended, use --allow-shared or {ALLOW_SHARED}=1",
    )


def _by_sudo() -> frozenset[int]:
    """Return the user who has become root by sudo, or an empty set."""
    number = os.environ.get("SUDO_UID", "")
    return frozenset({int(number)} if os.geteuid() == 0 and number.isdecimal() else ())


def _remedy(found: Stranger) -> str:
    import shlex

    where = shlex.quote(printable(found.path))
    if found.is_missing:
        return f"others could be first in {where}: make a directory with `mkdir -m 700`, and use it"
    if found.uid is None:
        return f"chmod go-w {where}"
    if not _is_mapped(found.uid):
        return f"this user namespace does not tell whose {where} is"
    return f"run hashclient as this user, or chown {os.geteuid()} {where}"


def _is_mapped(user: int) -> bool:
    """Return whether this user namespace contains a user.

    The namespace shows other users as nobody (65534).
    """
    try:
        lines = Path("/proc/self/uid_map").read_text().splitlines()
    except OSError:
        return True
    ranges = (tuple(map(int, line.split())) for line in lines)
    return any(first <= user < first + count for first, _, count in ranges)
