"""Changes to the text of `config.toml`: what an operator wrote in it, comments included, stays.

There is no parser here that keeps a text. A change is a piece of text put in somewhere; what comes
out is parsed, and is taken only if it says exactly what the old text said and what was to be added.
So a file that is written in a way that nobody thought of is left alone, with a sentence, and never
broken. A file that is reached through a link is changed where it lies; its mode and owner stay.
"""

from __future__ import annotations

import contextlib
import copy
import json
import os
import re
import stat
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from hashclient.errors import ConfigError
from hashclient.system.files import MAX_TEXT_BYTES, atomic_file, make_public_dir, read_regular
from hashclient.system.text import printable

#: A place to put something is looked for so often; a file that people write has a few.
MAX_TRIES = 100

_TABLE, _KEY = "quarantine", "recipients"
_HEADER = re.compile(rf"^[ \t]*\[[ \t]*{_TABLE}[ \t]*\][ \t]*(?:#[^\n]*)?\r?$", re.MULTILINE)
_ARRAY = re.compile(rf"^[ \t]*(?:{_TABLE}[ \t]*\.[ \t]*)?{_KEY}[ \t]*=[ \t]*\[", re.MULTILINE)


def read_config_text(path: Path) -> str:
    """Return the text of a configuration; of one that is not there, nothing.

    Raises:
        ConfigError: it cannot be read.
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
    """Replace the text of a configuration in one step; the caller keeps others from doing so.

    Raises:
        StateError: it cannot be written; it is as it was.
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
    """Return the `text` of a configuration with a `table` at its end."""
    if text and not text.endswith("\n"):
        text += "\n"
    return f"{text}\n{table}".lstrip("\n")


def with_recipient(text: str, recipient: str, where: str) -> str:
    """Return the `text` of a configuration in which `recipient` is one of those of quarantine.

    One that is there already is not added. `where` names the file in messages.

    Raises:
        ConfigError: the text is no TOML, or is written so that this has to be done by hand.
    """
    try:
        before = tomllib.loads(text)
        wanted = copy.deepcopy(before)
    except (ValueError, RecursionError) as error:
        raise ConfigError(
            f"configuration {where} is not valid: {printable(str(error))}",
            hint="mend it first; nothing was changed",
        ) from error
    table = wanted.setdefault(_TABLE, {})
    recipients = table.setdefault(_KEY, []) if isinstance(table, dict) else None
    if isinstance(recipients, list):
        if recipient in recipients:
            return text
        recipients.append(recipient)
        for number, candidate in enumerate(_candidates(text, _toml_string(recipient))):
            if number >= MAX_TRIES:
                break
            with contextlib.suppress(ValueError, RecursionError):
                if tomllib.loads(candidate) == wanted:
                    return candidate
    raise ConfigError(
        f"cannot add a recipient to configuration {where}",
        hint=f"add it by hand: `{recipient}` to `{_KEY}` in [{_TABLE}]; nothing was changed",
    )


def _candidates(text: str, item: str) -> Iterator[str]:
    """Yield texts in which `item` may stand in the list; most of them are wrong."""
    for array in _ARRAY.finditer(text):
        for end in range(array.end(), len(text)):
            if text[end] != "]":
                continue
            before, after = text[:end], text[end:]
            line = before.rpartition("\n")[2]
            if not line.strip():  # the bracket has a line of its own
                yield f"{before[: end - len(line)]}{line}    {item},\n{line}{after}"
            yield f"{before}, {item}{after}"
            yield f"{before}{item}{after}"
            yield f"{before} {item}{after}"
    for header in _HEADER.finditer(text):
        end = header.end()
        yield f"{text[:end]}\n{_KEY} = [{item}]{text[end:]}"
    yield with_table(text, f"[{_TABLE}]\n{_KEY} = [{item}]\n")


def provider_table(name: str, provider: msgspec.Struct) -> str:
    """Return the TOML text of one provider's table, to be added to a configuration.

    Appending text keeps what an operator wrote in the file, comments included.
    """
    place = f"providers.{_toml_string(name)}"
    values = msgspec.to_builtins(provider)
    mirrors = values.pop("mirrors", ())
    lines = [f"[{place}]", *_address_lines(place, values)]
    for mirror in mirrors:
        lines += ["", f"[[{place}.mirrors]]", *_address_lines(f"{place}.mirrors", mirror)]
    return "\n".join(lines) + "\n"


def _address_lines(place: str, values: dict[str, Any]) -> Iterator[str]:
    """Yield the lines of the table at `place`, the address first, and of the table below it."""
    oauth = values.pop("oauth", None)
    if "url" in values:
        yield f"url = {_toml_value(values.pop('url'))}"
    yield from (f"{key} = {_toml_value(value)}" for key, value in values.items())
    if oauth:
        yield ""
        yield f"[{place}.oauth]"
        yield from (f"{k} = {_toml_value(v)}" for k, v in oauth.items() if v is not None)


def _toml_value(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return repr(value)
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(_toml_value(v) for v in value) + "]"
    return _toml_string(str(value))


def _toml_string(text: str) -> str:
    """Quote `text` as a TOML basic string; JSON's escapes are a subset of TOML's."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ConfigError("a path that is not UTF-8 cannot be written to the configuration") from (
            error
        )
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
