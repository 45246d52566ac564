"""Signed documents of two lines: a JSON object, and a public key with the Ed25519 signature.

Each kind of document has a name, which is put before the signed bytes, so that a signature for one
kind of document is not valid for another kind.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, TypeVar

import msgspec

from hashclient.core.errors import VerificationError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

T = TypeVar("T")
#: A public key or a SHA-256 digest, in hexadecimal.
Key = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}\Z")]


class _Signature(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    public_key: Key
    signature: Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{128}\Z")]


def sign_document(document: object, tag: bytes, key: Ed25519PrivateKey) -> bytes:
    """Return the two lines of a document, signed with `key`."""
    line = msgspec.json.encode(document)
    public = key.public_key().public_bytes_raw().hex()
    signature = _Signature(public, key.sign(tag + line).hex())
    return line + b"\n" + msgspec.json.encode(signature) + b"\n"


def verify_document(data: bytes, tag: bytes, kind: type[T], max_bytes: int) -> tuple[T, str]:
    """Return the content of a document, and the public key that has signed it.

    1. The document has at most `max_bytes` bytes and exactly two lines. Each line is a JSON object,
       and the first object is of the type `kind`.
    2. The key in the second line must have signed the first line.

    Raises:
        VerificationError: the signature is wrong.
        ValueError: `data` is not a document of this kind.
    """
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    from hashclient.system.strictjson import parse_json

    line, end, rest = data.partition(b"\n")
    if not end or rest.find(b"\n") != len(rest) - 1 or len(data) > max_bytes:  # 1
        raise ValueError("not two lines")
    content = msgspec.convert(parse_json(line), kind)
    signed = msgspec.convert(parse_json(rest), _Signature)
    try:
        key = Ed25519PublicKey.from_public_bytes(bytes.fromhex(signed.public_key))
        key.verify(bytes.fromhex(signed.signature), tag + line)  # 2
    except InvalidSignature as error:
        raise VerificationError("its signature is wrong") from error
    return content, signed.public_key
