"""Common parts of tests: a `Provider`, a `State` of a client, a tree, and `Run`s of commands.

A test of a command is a few lines:

    def test_a_listed_file_matches(tmp_path: Path) -> None:
        state = State(tmp_path, {"base": {"e-1": b"listed"}}, {"a/b": b"listed"})
        scan = state.scan()
        assert (scan.code, scan.summary["match"]) == (10, 1)

`State.call` runs a command in this process, `State.run` in a new process. A `Site` is a provider
behind HTTPS on loopback.
"""

from tests.kit.provider import ALL_ALGORITHMS, Provider, csv_of, digests_of
from tests.kit.run import (
    ROOT,
    UNMEASURED,
    NoThread,
    Run,
    arguments,
    bytes_path,
    call,
    checked,
    descriptors_left,
    environment,
    from_pipe,
    is_python_for_all,
    measured,
    members,
    open_files,
    restored_signals,
    run,
    started,
    wait_until,
)
from tests.kit.site import Site
from tests.kit.state import State, edit_manifest, make_state, remember_at_once
from tests.kit.tree import fast_directory, make_deep_tree, write_tree

__all__ = [
    "ALL_ALGORITHMS",
    "ROOT",
    "UNMEASURED",
    "NoThread",
    "Provider",
    "Run",
    "Site",
    "State",
    "arguments",
    "bytes_path",
    "call",
    "checked",
    "csv_of",
    "descriptors_left",
    "digests_of",
    "edit_manifest",
    "environment",
    "fast_directory",
    "from_pipe",
    "is_python_for_all",
    "make_deep_tree",
    "make_state",
    "measured",
    "members",
    "open_files",
    "remember_at_once",
    "restored_signals",
    "run",
    "started",
    "wait_until",
    "write_tree",
]
