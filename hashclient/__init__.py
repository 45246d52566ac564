"""Check files against signed hash lists from an authorised provider.

The names in `__all__` are the public API; `docs/api.md` has examples. Each name is loaded at its
first use, so that importing the package costs nothing.
"""

#: The public names, by the module in which each is defined. Names that begin with an underscore, or
#: that are not in this table, may change.
_MODULES = {
    "hashclient.client.client": ("Client",),
    "hashclient.session": ("Session",),
    "hashclient.config.settings": ("Settings", "resolve_settings"),
    "hashclient.core.kinds": ("Action", "Algorithm", "Kind", "MatchState", "Verdict"),
    "hashclient.core.model": (
        *("Acted", "Gap", "Handled", "Hit", "MatchRef", "MissingList", "Outcome"),
    ),
    "hashclient.core.staleness": ("ListState",),
    "hashclient.core.match": ("Match",),
    "hashclient.core.verdict": ("Summary",),
    "hashclient.core.version": ("__version__",),
    "hashclient.scan.values.options": ("ScanOptions",),
    "hashclient.scan.run.pipeline": ("FrontEnd", "Guard", "Observer", "Run", "Scan"),
    "hashclient.scan.sources.interface": ("Source",),
    "hashclient.scan.sources.names": ("Names",),
    "hashclient.scan.check.streaming": ("Stream",),
    "hashclient.daemon.program": ("Checked", "ContentChecker"),
    "hashclient.fetch.switch": ("Fetched",),
    "hashclient.status.status": ("Status",),
    "hashclient.core.errors": (
        *("ExitCode", "HashclientError", "UsageError", "ConfigError", "UnreachableError"),
        *("AuthorisationError", "VerificationError", "StaleError", "StateError", "LockedError"),
        "AuditError",
    ),
}
_PLACES = {name: module for module, names in _MODULES.items() for name in names}

TYPE_CHECKING = False
if TYPE_CHECKING:
    from hashclient.client.client import Client
    from hashclient.config.settings import Settings, resolve_settings
    from hashclient.core.errors import (
        AuditError,
        AuthorisationError,
        ConfigError,
        ExitCode,
        HashclientError,
        LockedError,
        StaleError,
        StateError,
        UnreachableError,
        UsageError,
        VerificationError,
    )
    from hashclient.core.kinds import Action, Algorithm, Kind, MatchState, Verdict
    from hashclient.core.match import Match
    from hashclient.core.model import Acted, Gap, Handled, Hit, MatchRef, MissingList, Outcome
    from hashclient.core.staleness import ListState
    from hashclient.core.verdict import Summary
    from hashclient.core.version import __version__
    from hashclient.daemon.program import Checked, ContentChecker
    from hashclient.fetch.switch import Fetched
    from hashclient.scan.check.streaming import Stream
    from hashclient.scan.run.pipeline import FrontEnd, Guard, Observer, Run, Scan
    from hashclient.scan.sources.interface import Source
    from hashclient.scan.sources.names import Names
    from hashclient.scan.values.options import ScanOptions
    from hashclient.session import Session
    from hashclient.status.status import Status

__all__ = [
    "Acted",
    "Action",
    "Algorithm",
    "AuditError",
    "AuthorisationError",
    "Checked",
    "Client",
    "ConfigError",
    "ContentChecker",
    "ExitCode",
    "Fetched",
    "FrontEnd",
    "Gap",
    "Guard",
    "Handled",
    "HashclientError",
    "Hit",
    "Kind",
    "ListState",
    "LockedError",
    "Match",
    "MatchRef",
    "MatchState",
    "MissingList",
    "Names",
    "Observer",
    "Outcome",
    "Run",
    "Scan",
    "ScanOptions",
    "Session",
    "Settings",
    "Source",
    "StaleError",
    "StateError",
    "Status",
    "Stream",
    "Summary",
    "UnreachableError",
    "UsageError",
    "Verdict",
    "VerificationError",
    "__version__",
    "resolve_settings",
]


# a type checker knows the public names from the imports above, and should report all other names
if not TYPE_CHECKING:

    def __getattr__(name: str) -> object:
        """Import the module of a public name, and return the object."""
        if name not in _PLACES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        import importlib

        value = globals()[name] = getattr(importlib.import_module(_PLACES[name]), name)
        return value

    def __dir__() -> list[str]:
        return __all__
