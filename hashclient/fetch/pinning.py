"""Pins a provider: turns a root file and an address into a configuration that works.

Pinning takes these steps:

1. The options are checked.
2. The root is read.
3. The metadata of the provider, or of a copy, is read and verified with the root.
4. The root is stored in the state directory.
5. The configuration names the hash of the root.

If any of the steps 1 to 4 fails, nothing is changed.
"""

from __future__ import annotations

import contextlib
import hashlib
import shutil
from collections.abc import Iterator
from pathlib import Path

import msgspec

from hashclient.audit.log import Event
from hashclient.config.edit import (
    provider_table,
    read_config_text,
    with_provider,
    write_config_text,
)
from hashclient.config.settings import Settings, parse_config
from hashclient.config.tables import ProviderConfig
from hashclient.core.errors import StateError, UsageError, VerificationError
from hashclient.core.model import is_name
from hashclient.fetch.places import addresses, copy_at
from hashclient.net.peer import NEW_PROVIDER
from hashclient.session import Session
from hashclient.system.files import (
    MAX_STATE_BYTES,
    TEMP_PREFIX,
    make_private_dir,
    read_regular,
    state_errors,
    write_atomic,
)
from hashclient.system.layout import PINNED_ROOT_NAME
from hashclient.system.text import first_of, printable
from hashclient.trust.tuf import METADATA_HINT, Trust

#: The largest root in bytes, which is also python-tuf's limit.
MAX_ROOT_BYTES = 512_000
ROOT_HINT = "get the file from the provider by a way that you trust"


def pin_provider(
    session: Session,
    name: str,
    provider: ProviderConfig,
    root_file: Path,
    copy: Path | None = None,
) -> list[str]:
    """Pin `provider` under `name` with the root in `root_file`; return the lists that it offers.

    With `copy`, the path of a bundle or a directory, the copy is read and the provider is not
    contacted.

    Raises:
        UsageError, ConfigError: the name is in use, or an option or a file is wrong.
        UnreachableError, AuthorisationError, VerificationError, StaleError: the provider cannot be
            reached or verified. StateError, LockedError, AuditError: the state directory cannot be
            written.
    """
    settings = session.settings
    # Step 1 of pinning: the options are checked.
    if not is_name(name):
        raise UsageError(
            f"{printable(name)!r} cannot name a provider",
            hint="use lower-case letters, digits, dots, dashes and underscores",
        )
    if name in settings.config.providers:
        raise UsageError(
            f"provider {name} is configured already in {printable(settings.config_path)}",
            hint="choose another --name, or remove its table from the configuration",
        )
    # The addresses are also checked if a copy is read, so that an unusable address is refused.
    places = (
        addresses(name, provider, peer=NEW_PROVIDER) if copy is None or provider.addresses else []
    )
    place = places[0] if copy is None else copy_at(copy)
    # Step 2 of pinning: the root is read.
    root = _read_root(root_file)
    provider = msgspec.structs.replace(provider, root_sha256=hashlib.sha256(root).hexdigest())
    table = provider_table(name, provider)
    # The new configuration must be readable, so the new table is parsed first, and later the whole
    # file with the table.
    parse_config(table, printable(settings.config_path))
    layout = settings.layout

    def added() -> str:
        where = printable(settings.config_path)
        return with_provider(read_config_text(settings.config_path), name, table, where)

    with contextlib.ExitStack() as stack:
        stack.enter_context(session.writing())
        # `added` refuses a name that another process has pinned by now, before the files of a
        # provider with this name are removed.
        added()
        directory = stack.enter_context(_new_trust_dir(layout.provider(name)))
        # Step 3 of pinning: the metadata of the provider is read and verified.
        with place.open() as source:
            metadata = layout.metadata(name)
            try:
                trust = Trust(metadata, place.base, source, root, name=name, now=session.now())
            except VerificationError as error:
                raise VerificationError(
                    f"not the root metadata of a provider: {printable(root_file)}", hint=ROOT_HINT
                ) from error
            try:
                trust.refresh()
            except VerificationError as error:
                # If `refresh` knows the reason, its error has its own hint; otherwise the root may
                # be wrong.
                if error.hint not in {None, METADATA_HINT}:
                    raise
                raise VerificationError(
                    error.message,
                    hint=f"check {'the URL' if copy is None else place.name}, and that this is the"
                    " root of this provider:"
                    f" {printable(root_file)}; {ROOT_HINT}",
                ) from error
            offered = trust.lists()
        missing = sorted(set(provider.lists or ()).difference(offered))
        if missing:
            raise UsageError(
                f"provider {name} does not offer list {missing[0]}",
                hint=f"the provider offers: {first_of(offered) or 'none'}",
            )
        data = {"provider": name, "url": provider.url, "root": provider.root_sha256}
        session.audit.append([Event("init", data | {"source": place.name})])
        # Step 4 of pinning: the root is stored.
        write_atomic(directory / PINNED_ROOT_NAME, root)
        # Step 5 of pinning: the configuration names the root.
        write_config_text(settings.config_path, added())
    return offered


def _read_root(path: Path) -> bytes:
    try:
        with path.open("rb") as stream:
            root = stream.read(MAX_ROOT_BYTES + 1)
    except OSError as error:
        raise UsageError(
            f"cannot read root metadata: {printable(path)}: {error.strerror}",
            hint=ROOT_HINT,
        ) from error
    if len(root) > MAX_ROOT_BYTES:
        raise UsageError(f"root metadata is too large: {printable(path)}", hint=ROOT_HINT)
    return root


@contextlib.contextmanager
def _new_trust_dir(path: Path) -> Iterator[Path]:
    """Yield a new directory for the metadata of a provider.

    If the block fails, the directory is removed. Another configuration may have a provider with the
    same name in this state directory: its directory is kept until the block has succeeded.
    """
    before = path.with_name(f"{TEMP_PREFIX}{path.name}")
    shutil.rmtree(before, ignore_errors=True)
    with state_errors("cannot rename", path), contextlib.suppress(FileNotFoundError):
        path.rename(before)
    make_private_dir(path)
    try:
        yield path
    except BaseException:
        shutil.rmtree(path, ignore_errors=True)
        with contextlib.suppress(FileNotFoundError):
            before.rename(path)
        raise
    shutil.rmtree(before, ignore_errors=True)


def load_pinned_root(settings: Settings, provider: str) -> bytes:
    """Return the root that was pinned for `provider`, after verifying that it is unchanged.

    Raises:
        StateError: the root is missing, or is not the root that the configuration names.
    """
    path = settings.layout.pinned_root(provider)
    again = f"remove provider {provider} from the configuration and run `hashclient init` again"
    try:
        root = read_regular(path, MAX_STATE_BYTES)
    except OSError as error:
        raise StateError(
            f"cannot read pinned root: {printable(path)}: {error.strerror}", hint=again
        ) from error
    if hashlib.sha256(root).hexdigest() != settings.provider(provider).root_sha256:
        raise StateError(
            f"pinned root is not the root that the configuration names: {printable(path)}",
            hint=again,
        )
    return root
