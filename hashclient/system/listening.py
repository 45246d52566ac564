"""The error message of all commands that cannot listen at an address."""

from __future__ import annotations

import errno
import os

from hashclient.core.errors import StateError


def cannot_listen(where: str, error: OSError, *, hint: str | None = None) -> StateError:
    """Return the `StateError` for a failure to listen at the address `where`.

    `hint` is the hint if the port is in use; by default, the hint says that another daemon may use
    the port. The text of `error` is not used, because some libraries repeat the address in the
    text.
    """
    code = error.errno or 0
    # an error of a name lookup has no errno
    why = os.strerror(code) if code > 0 else error.strerror or str(error)
    if code == errno.EADDRINUSE:
        hint = hint or "another daemon may use this port; end it, or choose another port"
    else:
        hint = "check that the address belongs to this machine, and that you may use it"
    return StateError(f"cannot listen at {where}: {why[:1].lower()}{why[1:]}", hint=hint)
