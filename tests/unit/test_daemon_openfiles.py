"""Open files that clients hand over: read whole and known for what they are."""

from __future__ import annotations

import gzip
import hashlib
import os
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from hashclient.core.digests import CHUNK_BYTES
from hashclient.daemon import openfiles


@pytest.mark.parametrize("most", [1, 700, CHUNK_BYTES])
@pytest.mark.parametrize("is_archive", [True, False])
def test_a_container_is_known_however_few_bytes_come_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, most: int, is_archive: bool
) -> None:
    content = gzip.compress(b"benign " * 50) if is_archive else b"benign " * 50
    (tmp_path / "f").write_bytes(content)
    digest = hashlib.sha256()
    upload: Any = SimpleNamespace(
        fd=os.open(tmp_path / "f", os.O_RDONLY), began=time.monotonic(), update=digest.update
    )
    pread = os.pread
    monkeypatch.setattr(os, "pread", lambda fd, count, at: pread(fd, min(count, most), at))
    try:
        for _ in openfiles._read(upload, 60.0):
            pass
    finally:
        os.close(upload.fd)
    assert upload.opens is is_archive
    assert digest.digest() == hashlib.sha256(content).digest()
