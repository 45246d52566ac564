"""Documents of ours that the seal key vouches for: JSON with a message authentication code inside.

The code covers every byte of the document but its own digits, which count as zeros. So whatever the
disk makes of such a document is refused, wherever it happens; and so is what somebody writes who
does not have the key, which they do where it lies beside the document. What a document says is left
to its module; the format it has is what its code is for, so that none can pass for another.
"""

from __future__ import annotations

from hmac import compare_digest

from hashclient.index.blinding import Sealer

#: What stands for the code while it is computed: as long as the code is, in hexadecimal digits.
NO_MAC = "0" * 64


def authenticate(document: bytes, format_: str, sealer: Sealer) -> bytes:
    """Return `document`, in which `NO_MAC` stands first where the code belongs, with the code."""
    return document.replace(NO_MAC.encode(), sealer.mac(format_, document).encode(), 1)


def verify_document(document: bytes, mac: str, format_: str, sealer: Sealer) -> None:
    """Make sure that `document`, which says that `mac` is its code, is what was authenticated.

    Raises:
        ValueError: it is not.
    """
    digits = mac.encode()
    if len(digits) != len(NO_MAC) or document.count(digits) != 1:
        raise ValueError("a document without its code")
    expected = sealer.mac(format_, document.replace(digits, NO_MAC.encode()))
    # In constant time: who could measure how many digits are right would find the others.
    if not compare_digest(digits, expected.encode()):
        raise ValueError("a code that is not the document's")
