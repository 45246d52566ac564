"""Common parts of the tests of the transport and of access to a provider."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hashclient.net.client import Access, Limits, Transport

SECRET = "s3cret-value"
LIMITS = Limits(base_s=60.0, stall_s=60.0, attempts=3)
BASE = "https://list.invalid/base/"

#: A function that makes a file that only its owner can read.
SecretFile = Callable[[str | bytes], Path]


def opened(url: str, **settings: Any) -> Transport:
    names = ("on_bytes", "monotonic", "limits")
    extra = {name: settings.pop(name) for name in names if name in settings}
    access = Access(url, allow_http=True, **settings)
    return Transport(access, **{"limits": LIMITS, "wait": lambda _: None, **extra})


def complete_text(error: BaseException | None) -> str:
    """Return all text of an error that could be shown: messages, hints, causes, tracebacks."""
    parts = []
    while error is not None:
        parts += [str(error), repr(error), repr(error.args), repr(getattr(error, "hint", None))]
        parts += traceback.format_exception(error)
        error = error.__cause__ or error.__context__
    return "\n".join(parts)
