"""The name of an object in a bucket, as a URI: `s3://bucket/key`, perhaps with `?versionId=…`.

A key may contain any character, but a URI must name exactly one key. So `%`, `?`, `#`, control
characters and bytes that are not UTF-8 are written as `%XX` in a key; all other characters are not
changed. Reading a URI returns exactly the key for which it was written. This module does not
connect to a store of objects.
"""

from __future__ import annotations

import os
import re
from collections.abc import Container, Iterable, Sequence
from typing import Literal

import msgspec

from hashclient.core.errors import UsageError

Scheme = Literal["s3", "gs", "az"]

# The patterns are texts, because few runs name an object, and `re` compiles a text only when it is
# first used.
_URI = r"(?s)(s3|gs|az)://([^/?#]*)(?:/([^?#]*))?(?:\?versionId=([^?#]*))?"
_PREFIXES = ("s3://", "gs://", "az://")
#: A pattern that accepts every name of a bucket or container in the three stores.
_BUCKET = r"[A-Za-z0-9$][A-Za-z0-9._-]{1,221}"
_ESCAPE = rb"%([0-9A-Fa-f]{2})?"
#: The characters that are escaped, because they would have another meaning in a URI or cannot be
#: displayed.
_ESCAPED = r"[\x00-\x1f\x7f%?#\udc80-\udcff]"


class ObjectUri(msgspec.Struct, frozen=True, gc=False):
    """An object, a version of an object, or a prefix.

    A prefix stands for all keys that begin with `key`.

    `key` is decoded with surrogateescape. `version`: the version of the object; None means the
    latest version.
    """

    scheme: Scheme
    bucket: str
    key: str = ""
    version: str | None = None

    @property
    def text(self) -> str:
        """The URI as a text."""
        return f"{self.scheme}://{self.bucket}/{key_text(self.key)}" + version_text(self.version)

    @property
    def bucket_text(self) -> str:
        """The URI of the bucket, without a slash at its end."""
        return f"{self.scheme}://{self.bucket}"

    def is_below(self, others: Container[ObjectUri]) -> bool:
        """Return whether another URI in `others` also names all that this URI names.

        The versions of an object count as the object.
        """
        ends = (place for place, character in enumerate(self.key) if character == "/")
        keys = {"", *(self.key[: end + more] for end in ends for more in (0, 1))} - {self.key}
        return any(ObjectUri(self.scheme, self.bucket, key) in others for key in keys)


def outermost(uris: Iterable[ObjectUri]) -> list[ObjectUri]:
    """Return the URIs without those whose objects another one of them names as well."""
    given = dict.fromkeys(uris)
    return [uri for uri in given if uri.version is not None or not uri.is_below(given)]


def key_text(key: str) -> str:
    """Return a key as it is written in a URI."""
    return re.sub(_ESCAPED, lambda m: "".join(f"%{b:02X}" for b in os.fsencode(m[0])), key)


def version_text(version: str | None) -> str:
    """Return the end of a URI that names a version."""
    return "" if version is None else f"?versionId={key_text(version)}"


def is_object_uri(text: str) -> bool:
    """Return whether an argument is a URI of objects.

    The path of a file must be given as `./s3:…` if it looks like such a URI.
    """
    return text.startswith(_PREFIXES)


def split_paths(paths: Sequence[str]) -> tuple[tuple[str, ...], tuple[ObjectUri, ...]]:
    """Separate arguments into paths of files and URIs of objects.

    Raises:
        UsageError: a URI is malformed.
    """
    files = tuple(path for path in paths if not is_object_uri(path))
    return files, tuple(parse_uri(path) for path in paths if is_object_uri(path))


def _shown(text: str) -> str:
    """Return a given URI for a message, without the parts that may be secret."""
    bare, mark, _ = re.sub(r"//[^/@]*@", "//…@", text).partition("?")
    return key_text(bare) + ("?…" if mark else "")


def parse_uri(text: str) -> ObjectUri:
    """Return the object or prefix that a URI names.

    Raises:
        UsageError: the text is not a URI of objects.
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
    """Return the bucket or prefix that a URI names as the place for new objects.

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
