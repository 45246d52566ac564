"""All ways in which a command can end: the exit codes, and the exceptions that carry them.

The class of an error has the exit code, so the code that raises an error never chooses an exit
code. This module imports no other module of the project, because all modules may import it.

    HashclientError
    ├── UsageError            2   the command line is wrong
    │   └── ConfigError       2   the configuration is wrong
    ├── UnreachableError      4   the provider cannot be reached, a retry may help
    ├── AuthorisationError    5   the provider refuses the credential
    ├── VerificationError     6   data from the provider fail verification
    │   └── DeliveryError     6   not the signed file: another address may have it
    ├── StaleError            7   the provider's signatures have expired
    ├── StateError            8   the state directory is missing, corrupt or not writable
    │   └── LockedError       8   another process is writing to it
    └── AuditError            9   the audit log is broken or not writable
"""

from __future__ import annotations

import enum
from typing import ClassVar


class ExitCode(enum.IntEnum):
    """The exit codes of all commands; `meaning` is the text in the table for users."""

    meaning: str

    def __new__(cls, value: int, meaning: str) -> ExitCode:
        """Connect a code with its meaning."""
        member = int.__new__(cls, value)
        member._value_ = value
        member.meaning = meaning
        return member

    OK = 0, "done; for a scan: every input checked, none matches, the lists are fresh"
    BUG = 1, "internal error (a bug); never a verdict"
    USAGE = 2, "usage or configuration"
    INCOMPLETE = (
        3,
        "incomplete: something unread, in conflict or not done, or no inputs",
    )
    UNREACHABLE = 4, "provider unreachable (worth a retry)"
    UNAUTHORISED = 5, "not authorised"
    UNVERIFIED = 6, "list failed verification"
    STALE = 7, "list stale (a scan still runs and says so; a match outranks it)"
    STATE = 8, "local state missing, corrupt or locked"
    AUDIT = 9, "audit log broken or not writable"
    MATCH = 10, "match"
    MATCH_ATTENTION = 11, "match, and something unread, stale, missing, held, interrupted or failed"
    INTERRUPTED = 130, "interrupted (a match found before outranks it)"
    TERMINATED = 143, "terminated (a match found before outranks it)"


class HashclientError(Exception):
    """The root of all errors that a user may see.

    `message` says what went wrong; `hint` says what the user can do about it. Neither message nor
    hint ever contains a credential or a listed digest.
    """

    exit_code: ClassVar[ExitCode] = ExitCode.BUG

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        """Keep message and hint apart, so that an interface can show them separately."""
        super().__init__(message)
        self.message = message
        self.hint = hint


class UsageError(HashclientError):
    """The command line is wrong, or demands something impossible."""

    exit_code = ExitCode.USAGE


class ConfigError(UsageError):
    """The configuration, or a file it points to, is wrong."""


class UnreachableError(HashclientError):
    """The provider could not be reached, or did not answer properly; a retry may help."""

    exit_code = ExitCode.UNREACHABLE


class AuthorisationError(HashclientError):
    """The provider refused the credential, or requires a credential and none was given."""

    exit_code = ExitCode.UNAUTHORISED


class VerificationError(HashclientError):
    """Bytes from the provider were not signed by the trusted keys, or break the format."""

    exit_code = ExitCode.UNVERIFIED


class DeliveryError(VerificationError):
    """The received bytes are not the signed bytes; another address may deliver the signed bytes."""


class StaleError(HashclientError):
    """Signed metadata has expired."""

    exit_code = ExitCode.STALE


class StateError(HashclientError):
    """The state directory is missing, corrupt, full or not writable."""

    exit_code = ExitCode.STATE


class LockedError(StateError):
    """Another process has the writers' lock of the state directory."""


class AuditError(HashclientError):
    """The audit log cannot be written, or its verification fails."""

    exit_code = ExitCode.AUDIT


def out_of_memory() -> StateError:
    """Return the error to raise when a module or a library raises MemoryError."""
    return StateError(
        "there is not enough memory",
        hint="raise the memory limit of this process (`ulimit -d`, `MemoryMax=`), or end other "
        "programs; a scan needs less memory with fewer --jobs",
    )
