"""The threat model: every row names tests, every test named exists, every exit code is one."""

from __future__ import annotations

import re

import pytest

from hashclient.core.errors import ExitCode
from tests.docs.blocks import DOCS, ROOT, names_of_tests, table_rows

pytestmark = pytest.mark.docs

THREAT_MODEL = DOCS / "threat-model.md"
HEADINGS = [
    heading
    for heading in re.findall(r"^## .+$", THREAT_MODEL.read_text(), re.MULTILINE)
    if heading not in {"## What is worth protecting", "## Who", "## What we do not claim"}
]


@pytest.mark.parametrize("heading", HEADINGS)
def test_every_row_names_tests_that_exist(heading: str) -> None:
    existing = names_of_tests(ROOT / "tests")
    rows = table_rows(THREAT_MODEL, heading)
    assert rows
    for attack, _, codes, tests in rows:
        named = set(re.findall(r"`(test_\w+)`", tests))
        assert named, f"no test is named for: {attack}"
        assert named <= existing, sorted(named - existing)
        for code in filter(None, codes.split(", ")):
            assert int(code) in set(ExitCode)
