"""The error for an address that cannot be listened at: one sentence and one exit code for all."""

from __future__ import annotations

import errno
import os

from hashclient.core.errors import StateError


def cannot_listen(where: str, error: OSError, *, hint: str | None = None) -> StateError:
    """Return our error for a failure to listen at the address `where`.

    `hint` is for a port in use; by default it says that another daemon may be there. The text of
    the error is not used: some libraries put the address into it once more.
    """
    code = error.errno or 0
    why = os.strerror(code) if code > 0 else error.strerror or str(error)  # look-up: no errno
    if code == errno.EADDRINUSE:
        hint = hint or "another daemon may be there; end it, or take another port"
    else:
        hint = "see whether the address is one of this machine, and may be used"
    return StateError(f"cannot listen at {where}: {why[:1].lower()}{why[1:]}", hint=hint)
