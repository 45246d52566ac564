"""The name of an object in a bucket, as a URI: `s3://bucket/key`, perhaps with `?versionId=…`.

A key may hold any character, and a URI must mean one key only. So in a key, `%`, `?`, `#`, control
characters and bytes that are no UTF-8 are written as `%XX`; all other characters stay. Writing and
reading are exact opposites. This module does not connect to a store.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from typing import Literal

import msgspec

from hashclient.core.errors import UsageError

Scheme = Literal["s3", "gs", "az"]

# Patterns are texts, since few runs name an object; `re` compiles a text when it is first used.
_URI = r"(?s)(s3|gs|az)://([^/?#]*)(?:/([^?#]*))?(?:\?versionId=([^?#]*))?"
_PREFIXES = ("s3://", "gs://", "az://")
#: A pattern that accepts every name of a bucket or container in the three stores.
_BUCKET = r"[A-Za-z0-9$][A-Za-z0-9._-]{1,221}"
_ESCAPE = rb"%([0-9A-Fa-f]{2})?"
#: Characters that are escaped: they would mean something else, or cannot be shown.
_ESCAPED = r"[\x00-\x1f\x7f%?#\udc80-\udcff]"


class ObjectUri(msgspec.Struct, frozen=True, gc=False):
    """An object, a version of an object, or a prefix: all keys that begin with `key`.

    `key` is decoded with surrogateescape. `version` None means the latest version.
    """

    scheme: Scheme
    bucket: str
    key: str = ""
    version: str | None = None

    @property
    def text(self) -> str:
        """The URI."""
        return f"{self.scheme}://{self.bucket}/{key_text(self.key)}" + version_text(self.version)

    @property
    def bucket_text(self) -> str:
        """The URI of the bucket alone, without a slash at its end."""
        return f"{self.scheme}://{self.bucket}"


def key_text(key: str) -> str:
    """Return a key in the form of a URI."""
    return re.sub(_ESCAPED, lambda m: "".join(f"%{b:02X}" for b in os.fsencode(m[0])), key)


def version_text(version: str | None) -> str:
    """Return the text for a version at the end of a URI."""
    return "" if version is None else f"?versionId={key_text(version)}"


def is_object_uri(text: str) -> bool:
    """Return whether an argument names objects; a file with a similar name is given as `./s3:…`."""
    return text.startswith(_PREFIXES)


def split_paths(paths: Sequence[str]) -> tuple[tuple[str, ...], tuple[ObjectUri, ...]]:
    """Return the paths of files among arguments, and the URIs of objects.

    Raises:
        UsageError: a URI is wrong.
    """
    files = tuple(path for path in paths if not is_object_uri(path))
    return files, tuple(parse_uri(path) for path in paths if is_object_uri(path))


def _shown(text: str) -> str:
    """Return a given URI for a message, without parts that may be secret."""
    bare, mark, _ = re.sub(r"//[^/@]*@", "//…@", text).partition("?")
    return key_text(bare) + ("?…" if mark else "")


def parse_uri(text: str) -> ObjectUri:
    """Return the objects that a URI names.

    Raises:
        UsageError: the text is not the URI of objects.
    """
    found = re.fullmatch(_URI, text)
    if found is None:
        raise UsageError(
            f"not the URI of an object: {_shown(text)}",
            hint="write s3://BUCKET/PREFIX; a ? in a key is %3F, a # is %23",
        )
    scheme, bucket, key, version = found.groups()
    if not re.fullmatch(_BUCKET, bucket):
        raise UsageError(
            f"not the URI of a bucket: {_shown(text)}",
            hint="write s3://BUCKET/PREFIX, gs://BUCKET/PREFIX or az://CONTAINER/PREFIX",
        )
    name: Scheme = "s3" if scheme == "s3" else "gs" if scheme == "gs" else "az"
    whole = None if version is None else _unescaped(version, text)
    if whole == "":
        raise UsageError(
            f"the version in a URI is empty: {_shown(text)}", hint="leave out the version"
        )
    return ObjectUri(name, bucket, _unescaped(key or "", text), whole)


def parse_prefix(text: str) -> ObjectUri:
    """Return the bucket, or the prefix in it, that a URI names as a place for new objects.

    Raises:
        UsageError: the text is not the URI of a bucket or prefix, or it names a version.
    """
    uri = parse_uri(text)
    if uri.version is not None:
        raise UsageError(
            f"a version of an object cannot contain other objects: {_shown(text)}",
            hint="write s3://BUCKET/PREFIX",
        )
    return uri


def _unescaped(part: str, text: str) -> str:
    def byte(found: re.Match[bytes]) -> bytes:
        if found[1] is None:
            raise UsageError(
                f"a % in a URI is not part of an escape: {_shown(text)}",
                hint="write %25 for a % that belongs to the key",
            )
        return bytes.fromhex(found[1].decode())

    return os.fsdecode(re.sub(_ESCAPE, byte, os.fsencode(part)))
