"""The table of exit codes: one enum, and the same words in the help, the README and the docs."""

from __future__ import annotations

from pathlib import Path

import pytest

from hashclient.core.errors import ExitCode, HashclientError
from hashclient.core.kinds import Kind
from tests.docs.blocks import DOCS, marked_blocks, run_script, table_rows

pytestmark = pytest.mark.docs

DOCUMENT = DOCS / "exit-codes.md"


def test_the_table_is_the_enum() -> None:
    rows = table_rows(DOCUMENT, "# Exit codes")
    assert rows == [[str(code.value), code.meaning] for code in ExitCode]


def test_every_outcome_is_explained() -> None:
    rows = table_rows(DOCUMENT, "## How an input ends")
    assert [row[0] for row in rows] == [str(kind) for kind in Kind]


def test_every_class_of_errors_has_a_code_of_its_own_kind() -> None:
    def leaves(root: type[HashclientError]) -> set[type[HashclientError]]:
        return {root}.union(*(leaves(child) for child in root.__subclasses__()))

    ours = {c for c in leaves(HashclientError) if c.__module__ == "hashclient.core.errors"}
    codes = {c.exit_code for c in ours}
    assert codes == set(ExitCode) - {
        ExitCode.OK,
        ExitCode.INCOMPLETE,
        ExitCode.MATCH,
        ExitCode.MATCH_ATTENTION,
        ExitCode.INTERRUPTED,
        ExitCode.TERMINATED,
    }


@pytest.mark.parametrize(
    ("code", "says"), [(0, "clean"), (10, "match"), (11, "match, and"), (4, "provider"), (3, "no")]
)
def test_the_scripts_run(tmp_path: Path, code: int, says: str) -> None:
    """The scripts are tried with a command that ends with each code that they distinguish."""
    blocks = marked_blocks(DOCUMENT, "exit-codes")
    command = f"hashclient() {{ return {code}; }}\n"
    done, output = run_script(command + "".join(blocks), tmp_path)
    assert done == 0
    first, last = output.splitlines()
    assert first.startswith(says)
    assert last == f"exit code {code}"
