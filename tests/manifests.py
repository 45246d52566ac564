"""Manifests of version 1, which 0.1.0 wrote: without a code, and with a SHA-256 of each run."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

_SINCE = ("mac", "verified_at", "oldest_verified", "rotten", "offered")


def make_old(directory: Path, **changes: Any) -> None:
    """Give a list's folder the manifest that 0.1.0 would have written, with `changes`."""
    path = directory / "manifest.json"
    document = json.loads(path.read_bytes())
    for name in _SINCE:
        del document[name]
    for run in document["runs"]:
        del run["root"]
        run["sha256"] = hashlib.sha256((directory / run["name"]).read_bytes()).hexdigest()
    path.write_text(json.dumps(document | {"format": "hashclient-index/1"} | changes))
    (directory / "checks.json").unlink(missing_ok=True)
