"""Loading numpy while few calls are open, which saves a tenth of the start of a scan.

CPython 3.11 and later keep the frames of calls in blocks of 16 KiB. Where a block is full, the next
call gets another one from the system and gives it back when it returns; so do all calls that are
made from there. Loading a package that loads others is deep enough for that, and where numpy falls
on such a place, it asks for memory and gives it back 800 to 3,700 times. Loaded from a command
directly it fills no block.
"""

from __future__ import annotations


def load_numpy() -> None:
    """Load numpy; for commands that need it anyway, before anything that would load it."""
    import numpy as np  # noqa: F401
