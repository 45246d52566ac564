"""Replaces `hashclient.audit.ed25519`: the `openssl` program verifies signatures."""

from __future__ import annotations

import functools

from hashclient.cli.officer.openssl import (
    PUBLIC_PREFIX,
    files_for_openssl,
    no_openssl,
    run_openssl,
)

#: The second test of RFC 8032, section 7.1: a public key, a message, and its signature.
_KEY = bytes.fromhex("3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c")
_MESSAGE = b"r"
_SIGNATURE = bytes.fromhex(
    "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da"
    "085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00"
)


class BadSignatureError(Exception):
    """The signature is not a signature of the message by the key."""


def verify(public_key: bytes, signature: bytes, message: bytes) -> None:
    """Verify a signature of 64 bytes with a public key of 32 bytes.

    BadSignatureError: the signature is wrong. UsageError: no installed `openssl` can verify
    signatures.
    """
    if not _is_verified(public_key, signature, message):
        if not _is_verified(_KEY, _SIGNATURE, _MESSAGE):
            raise no_openssl()
        raise BadSignatureError


@functools.cache  # many packages of one reporter begin with the same signed record
def _is_verified(public_key: bytes, signature: bytes, message: bytes) -> bool:
    files = {"key": PUBLIC_PREFIX + public_key, "signature": signature, "message": message}
    with files_for_openssl(files) as directory:
        words = ["-verify", "-pubin", "-keyform", "DER", "-inkey", "key", "-rawin"]
        words += ["-in", "message", "-sigfile", "signature"]
        return run_openssl(["pkeyutl", *words], directory) is not None
