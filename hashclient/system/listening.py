"""The error for an address where listening is not possible: the same for all commands."""

from __future__ import annotations

import errno
import os

from hashclient.core.errors import StateError


def cannot_listen(where: str, error: OSError, *, hint: str | None = None) -> StateError:
    """Return our error for a failure to listen at the address `where`.

    `hint` is for a port in use; the default hint says that another daemon may be there. The text of
    the error is not used: some libraries repeat the address in it.
    """
    code = error.errno or 0
    # an error of a name lookup has no errno
    why = os.strerror(code) if code > 0 else error.strerror or str(error)
    if code == errno.EADDRINUSE:
        hint = hint or "another daemon may use this port; end it, or choose another port"
    else:
        hint = "check that the address belongs to this machine, and that you may use it"
    return StateError(f"cannot listen at {where}: {why[:1].lower()}{why[1:]}", hint=hint)
