"""Changes the text of `config.toml` and keeps all other text in it, including comments.

tomlkit preserves the text of unchanged parts. The changed text is parsed again, and is used only if
it has exactly the old values and the new value; otherwise the file is not changed. If the path is a
symbolic link, the file to which it leads is changed, and keeps its mode and owner.
"""

from __future__ import annotations

import contextlib
import os
import stat
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from hashclient.core.errors import ConfigError
from hashclient.system.files import MAX_TEXT_BYTES, atomic_file, make_public_dir, read_regular
from hashclient.system.text import printable

_TABLE, _KEY = "quarantine", "recipients"


def read_config_text(path: Path) -> str:
    """Return the text of a configuration, or an empty text if the file is missing.

    Raises:
        ConfigError: the file cannot be read.
    """
    try:
        return read_regular(path, MAX_TEXT_BYTES).decode()
    except FileNotFoundError:
        return ""
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"cannot read configuration {printable(path)}: {error}",
            hint="check the path and its permissions",
        ) from error


def write_config_text(path: Path, text: str) -> None:
    """Replace the text of a configuration in one step; the caller must have the writers' lock.

    Raises:
        StateError: the file cannot be written, and is unchanged.
    """
    make_public_dir(path.parent)
    path = path.resolve()
    try:
        status = path.stat()
    except OSError:
        status = None
    mode = 0o644 if status is None else stat.S_IMODE(status.st_mode)
    with atomic_file(path, mode=mode) as stream:
        if status is not None:
            with contextlib.suppress(PermissionError):
                os.fchown(stream.fileno(), status.st_uid, status.st_gid)
        stream.write(text.encode())


def with_table(text: str, table: str) -> str:
    """Return the `text` of a configuration with `table` added at its end."""
    if text and not text.endswith("\n"):
        text += "\n"
    return f"{text}\n{table}".lstrip("\n")


def with_provider(text: str, name: str, table: str, where: str) -> str:
    """Return the `text` of a configuration with the `table` of provider `name` added at its end.

    `where`: the name of the file in messages.

    Raises:
        ConfigError: the text is not TOML, or has a form that only a person can change.
    """
    wanted = _parsed(text, where)
    providers = wanted.setdefault("providers", {})
    changed = with_table(text, table)
    if isinstance(providers, dict) and name not in providers:
        providers |= tomllib.loads(table)["providers"]
        if _says(changed, wanted):
            return changed
    raise ConfigError(
        f"cannot add a provider to configuration {where}",
        hint="write each provider as a table of its own, [providers.NAME]; nothing was changed",
    )


def with_recipient(text: str, recipient: str, where: str) -> str:
    """Return the `text` of a configuration with `recipient` added to the recipients of quarantine.

    A recipient that is present already is not added again. `where`: the name of the file in
    messages.

    Raises:
        ConfigError: the text is not TOML, or has a form that only a person can change.
    """
    wanted = _parsed(text, where)
    table = wanted.setdefault(_TABLE, {})
    recipients = table.setdefault(_KEY, []) if isinstance(table, dict) else None
    if isinstance(recipients, list):
        if recipient in recipients:
            return text
        recipients.append(recipient)
        changed = _appended(text, recipient)
        if changed is not None and _says(changed, wanted):
            return changed
    raise ConfigError(
        f"cannot add a recipient to configuration {where}",
        hint=f"add it by hand: `{recipient}` to `{_KEY}` in [{_TABLE}]; nothing was changed",
    )


def _parsed(text: str, where: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConfigError(
            f"configuration {where} is not valid: {printable(str(error))}",
            hint="correct it first; nothing was changed",
        ) from error


def _says(text: str, wanted: Mapping[str, Any]) -> bool:
    """Return whether a text is TOML with exactly the values `wanted`, and not too long."""
    if len(text.encode()) > MAX_TEXT_BYTES:
        return False
    with contextlib.suppress(ValueError, RecursionError):
        return tomllib.loads(text) == wanted
    return False


def _appended(text: str, recipient: str) -> str | None:
    """Return the text with one more recipient of the quarantine; None if tomlkit cannot add it."""
    import tomlkit  # importing tomlkit takes 27 ms, and only a change of the configuration needs it
    from tomlkit.exceptions import TOMLKitError

    try:
        document = tomlkit.parse(text)
        if _TABLE not in document:
            return with_table(text, tomlkit.dumps({_TABLE: {_KEY: [recipient]}}))
        table: Any = document[_TABLE]
        if _KEY not in table:
            table.add(_KEY, tomlkit.array())
        array = table[_KEY]
        if "\n" in array.as_string():
            array.add_line(recipient)
        else:
            array.append(recipient)
        return tomlkit.dumps(document)
    except (TOMLKitError, ValueError, RecursionError):
        return None


def provider_table(name: str, provider: msgspec.Struct) -> str:
    """Return the TOML text of the table of one provider.

    Raises:
        ConfigError: a path in the table is not UTF-8.
    """
    import tomlkit

    # The address is written first, whatever the order of the fields; `dumps` writes tables last.
    values = _without_none(msgspec.to_builtins(provider))
    ordered = {"url": values.pop("url")} if "url" in values else {}
    text = tomlkit.dumps({"providers": {name: ordered | values}})
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ConfigError("a path that is not UTF-8 cannot be written to the configuration") from (
            error
        )
    return text


def _without_none(value: Any) -> Any:
    """Return `value` without its None values, which TOML cannot express."""
    if isinstance(value, dict):
        return {key: _without_none(inner) for key, inner in value.items() if inner is not None}
    if isinstance(value, list | tuple):
        return [_without_none(inner) for inner in value]
    return value
