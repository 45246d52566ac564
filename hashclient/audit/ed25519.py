"""Verifies Ed25519 signatures by the cryptography package.

The one-file tool for recipients replaces this module by a module that runs `openssl`.
"""

from __future__ import annotations


class BadSignatureError(Exception):
    """The signature was not made by the key, or not for this message."""


def verify(public_key: bytes, signature: bytes, message: bytes) -> None:
    """Verify a signature of 64 bytes by a key of 32.

    Raises:
        BadSignatureError: the signature is wrong.
    """
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    try:
        Ed25519PublicKey.from_public_bytes(public_key).verify(signature, message)
    except InvalidSignature as error:
        raise BadSignatureError from error
