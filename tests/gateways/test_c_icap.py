"""A proxy sends the downloads of its users to c-icap, and c-icap asks the daemon."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.gateways.door import Door
from tests.gateways.icap import icap
from tests.gateways.objects import FILES, FOUND_FILES, WITHOUT_VERDICT
from tests.gateways.programs import needs, output_of

pytestmark = [pytest.mark.deep, needs("c-icap", "c-icap-client")]


@pytest.fixture(scope="module")
def port(gate: Door) -> Iterator[int]:
    gate.open()
    with icap(gate, gate.directory / "icap") as port:
        yield port


def asked(gate: Door, port: int, data: bytes) -> str:
    """Return the result of a download: `passes`, `blocked` with a page, or `an error`."""
    path, out = gate.directory / "object", gate.directory / "out"
    path.write_bytes(data)
    out.unlink(missing_ok=True)
    words = ("-i", "127.0.0.1", "-p", port, "-s", "srv_clamav", "-f", path, "-o", out, "-v")
    _, told = output_of("c-icap-client", *words)
    if "ICAP/1.0 204 Unmodified" in told:
        return "passes"
    body = out.read_bytes()
    assert data not in body
    if "HTTP/1.0 403 Forbidden" in told and b"VIRUS FOUND" in body:
        return "blocked"
    assert "HTTP/1." not in told, told
    assert body == b""
    return "an error"


@pytest.mark.parametrize("rule", ["found", "error", "ok"])
def test_files(gate: Door, port: int, rule: str) -> None:
    gate.open(rule)
    made = {what: asked(gate, port, data) for what, data in FILES.items()}
    unknown = {"found": "blocked", "error": "an error", "ok": "passes"}[rule]
    assert made == {
        "clean": "passes",
        **dict.fromkeys(FOUND_FILES, "blocked"),
        **dict.fromkeys(WITHOUT_VERDICT, unknown),
        "long": "passes",  # the limit applies to streams, but c-icap passes a file
    }


@pytest.mark.parametrize(
    ("rule", "made"), [("found", "blocked"), ("error", "an error"), ("ok", "passes")]
)
def test_stale_lists(gate: Door, port: int, rule: str, made: str) -> None:
    gate.open(rule, stale=True)
    assert asked(gate, port, FILES["clean"]) == made
    assert asked(gate, port, FILES["match"]) == "blocked"


def test_nobody_there(gate: Door, port: int) -> None:
    gate.close()
    assert asked(gate, port, FILES["match"]) == "an error"


def test_it_lets_everything_pass_if_nobody_was_there_when_it_started(gate: Door) -> None:
    gate.close()
    with icap(gate, gate.directory / "early") as port:
        gate.open()
        assert asked(gate, port, FILES["match"]) == "passes"
