"""JSON documents with a message authentication code (MAC) inside, made with the seal key.

The code covers every byte of the document; its own digits count as zeros. So a document with any
changed byte is refused, and so is a document that somebody without the key has written. (Where the
key lies beside the document, a person who can write the document has the key, too.) The content of
a document is left to its module. Each format has a subkey of its own, so that no document can pass
for one of another format.
"""

from __future__ import annotations

from hmac import compare_digest

from hashclient.index.blinding import Sealer

#: The digits in place of the code while it is computed: as many as the code has, in hexadecimal.
NO_MAC = "0" * 64


def authenticate(document: bytes, format_: str, sealer: Sealer) -> bytes:
    """Return `document`, in which `NO_MAC` stands first where the code belongs, with the code."""
    return document.replace(NO_MAC.encode(), sealer.mac(format_, document).encode(), 1)


def verify_document(document: bytes, mac: str, format_: str, sealer: Sealer) -> None:
    """Verify that `mac`, which `document` contains, is the code of `document`.

    Raises:
        ValueError: `mac` is not the code of `document`.
    """
    digits = mac.encode()
    if len(digits) != len(NO_MAC) or document.count(digits) != 1:
        raise ValueError("a document without its code")
    expected = sealer.mac(format_, document.replace(digits, NO_MAC.encode()))
    # In constant time: an attacker who can measure how many digits are right finds the others.
    if not compare_digest(digits, expected.encode()):
        raise ValueError("a code that is not the document's")
