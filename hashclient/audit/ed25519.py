"""Verifies Ed25519 signatures with the package `cryptography`.

In the one-file tool for recipients, a module that runs `openssl` replaces this module.
"""

from __future__ import annotations


class BadSignatureError(Exception):
    """The signature was not made by the key, or not for the message."""


def verify(public_key: bytes, signature: bytes, message: bytes) -> None:
    """Verify a signature of 64 bytes with a public key of 32 bytes.

    Raises:
        BadSignatureError: the signature is wrong.
    """
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    try:
        Ed25519PublicKey.from_public_bytes(public_key).verify(signature, message)
    except InvalidSignature as error:
        raise BadSignatureError from error
