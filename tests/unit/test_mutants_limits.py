"""Limits of tests of a mutant count only its own processes, not those of the whole machine."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from fixtures.mutants import limits

_MOST_S = 100
_WAITING = "import signal; signal.pause()"
_STARTING = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {_WAITING!r}])"


@pytest.mark.parametrize("code", [0, 3])
def test_a_program_that_ends_by_itself(tmp_path: Path, code: int) -> None:
    program = f"import sys; print('said'); sys.exit({code})"
    ended = limits.run([sys.executable, "-c", program], tmp_path, os.environ, _MOST_S)
    assert (ended.said, ended.code) == ("said\n", code)
    assert ended.cpu_s > 0


@pytest.mark.parametrize("program", [_WAITING, _STARTING])
def test_a_program_that_waits_for_ever_comes_to_a_limit(tmp_path: Path, program: str) -> None:
    ended = limits.run([sys.executable, "-c", program], tmp_path, os.environ, 0.1)
    assert ended.code is None


@pytest.mark.slow
def test_a_program_that_loops_comes_to_a_limit(tmp_path: Path) -> None:
    ended = limits.run([sys.executable, "-c", "while True: pass"], tmp_path, os.environ, 0.5)
    assert ended.code is None
