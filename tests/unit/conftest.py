"""A quarantine and a file to take away, for the tests of `hashclient/quarantine/`."""

from __future__ import annotations

from pathlib import Path

import pytest

from fixtures.quarantine import CONTENT, Ward


@pytest.fixture
def ward(tmp_path: Path) -> Ward:
    """A state directory without lists."""
    return Ward(tmp_path)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A file that holds `CONTENT`."""
    path = tmp_path / "share" / "file.bin"
    path.parent.mkdir()
    path.write_bytes(CONTENT)
    return path
