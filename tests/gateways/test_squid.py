"""squid sends all downloads and uploads to c-icap, which asks the daemon."""

from __future__ import annotations

import contextlib
import http.client
import threading
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from tests.docs.blocks import free_port
from tests.gateways.door import Door
from tests.gateways.icap import icap
from tests.gateways.objects import FILES, FOUND_FILES, WITHOUT_VERDICT
from tests.gateways.programs import give, listens, needs, needs_root, program, recipe, running

pytestmark = [pytest.mark.deep, needs("c-icap", "squid"), needs_root]

ICAP = "icap://127.0.0.1:1344/"
USUAL = """
http_port 127.0.0.1:{port}
pid_filename {place}/pid
cache_log {place}/cache.log
access_log none
cache_store_log none
coredump_dir {place}
cache deny all
pinger_enable off
shutdown_lifetime 0 seconds
visible_hostname localhost
dns_nameservers 127.0.0.1
max_filedescriptors 1024
http_access allow all
"""
TIMEOUT_S = 60


class Origin(ThreadingHTTPServer):
    """A site on loopback that serves `FILES` and keeps uploads."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.uploads: list[bytes] = []


class _Handler(BaseHTTPRequestHandler):
    server: Origin

    def do_GET(self) -> None:
        data, status, part = FILES[self.path.removeprefix("/")], 200, ""
        if "Range" in self.headers:  # the tests ask for all bytes but the first
            status, part = 206, f"bytes 1-{len(data) - 1}/{len(data)}"
            data = data[1:]
        elif "br" in self.headers.get("Accept-Encoding", ""):
            data = data[::-1]  # takes the place of a compression
        self.send_response(status)
        if part:
            self.send_header("Content-Range", part)
        self.send_header("Content-Type", "application/octet-stream")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def do_PUT(self) -> None:
        self.server.uploads.append(self.rfile.read(int(self.headers["Content-Length"])))
        self.send_response(201)
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_POST = do_PUT  # noqa: N815 - the name that is looked for

    def log_message(self, *_: object) -> None:
        """Log nothing."""


@pytest.fixture(scope="module")
def origin() -> Iterator[Origin]:
    with Origin() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield server
        finally:
            server.shutdown()


@pytest.fixture(scope="module")
def port(gate: Door) -> Iterator[int]:
    gate.open()
    port, place = free_port(), gate.directory / "squid"
    place.mkdir()
    give(place, "proxy")
    with icap(gate, gate.directory / "icap") as scanner:
        places = {ICAP: f"icap://127.0.0.1:{scanner}/"}
        configuration = gate.directory / "squid.conf"
        usual = USUAL.format(port=port, place=place)
        configuration.write_text(usual + recipe("recipe-squid", places))
        command = [program("squid"), "-N", "-f", configuration]
        with running(command, lambda: listens(("127.0.0.1", port)), gate.directory / "squid.log"):
            yield port


def through(
    port: int, method: str, url: str, body: bytes | None = None, headers: Mapping[str, str] = {}
) -> tuple[int, bytes]:
    """Send a request through the proxy, and return the status and the body."""
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, TIMEOUT_S)) as proxy:
        proxy.request(method, url, body, dict(headers))
        answer = proxy.getresponse()
        return answer.status, answer.read()


def judged(status: int, page: bytes) -> str:
    """Return the result of a request: `passes`, `blocked` with a page, or `an error`."""
    if status in (200, 201):
        return "passes"
    if status == 403 and b"VIRUS FOUND" in page:
        return "blocked"
    assert status == 500 and b"ICAP" in page, (status, page)
    return "an error"


def got(port: int, origin: Origin, what: str) -> str:
    """Download one of `FILES`, and return the result."""
    status, data = through(port, "GET", f"http://127.0.0.1:{origin.server_port}/{what}")
    said = judged(status, data)
    assert (data == FILES[what]) == (said == "passes")
    return said


def put(port: int, origin: Origin, data: bytes, method: str = "PUT", kind: str = "x/y") -> str:
    """Upload bytes, and return the result."""
    origin.uploads.clear()
    url = f"http://127.0.0.1:{origin.server_port}/here"
    said = judged(*through(port, method, url, data, {"Content-Type": kind}))
    assert origin.uploads == ([data] if said == "passes" else [])
    return said


@pytest.mark.parametrize("rule", ["found", "error", "ok"])
@pytest.mark.parametrize("way", ["down", "up"])
def test_files(gate: Door, port: int, origin: Origin, way: str, rule: str) -> None:
    gate.open(rule)
    made = {
        what: got(port, origin, what) if way == "down" else put(port, origin, data)
        for what, data in FILES.items()
    }
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
def test_stale_lists(gate: Door, port: int, origin: Origin, rule: str, made: str) -> None:
    gate.open(rule, stale=True)
    assert got(port, origin, "clean") == put(port, origin, FILES["clean"]) == made
    assert got(port, origin, "match") == put(port, origin, FILES["match"]) == "blocked"


@pytest.mark.parametrize("headers", [{"Range": "bytes=1-"}, {"Accept-Encoding": "gzip, br"}])
def test_a_server_sends_the_whole_file(
    gate: Door, port: int, origin: Origin, headers: dict[str, str]
) -> None:
    gate.open()
    url = f"http://127.0.0.1:{origin.server_port}"
    assert judged(*through(port, "GET", f"{url}/match", headers=headers)) == "blocked"
    status, data = through(port, "GET", f"{url}/clean", headers=headers)
    clean = FILES["clean"]
    assert (status, data) in [(206, clean[1:]), (200, clean)]


def test_nobody_there(gate: Door, port: int, origin: Origin) -> None:
    gate.close()
    assert got(port, origin, "match") == put(port, origin, FILES["match"]) == "an error"


def form(data: bytes) -> tuple[bytes, str]:
    """Return the body and the type of a form with a file, as a browser sends it."""
    head = b'--xx\r\nContent-Disposition: form-data; name="file"; filename="a.bin"\r\n'
    body = head + b"Content-Type: application/octet-stream\r\n\r\n" + data + b"\r\n--xx--\r\n"
    return body, "multipart/form-data; boundary=xx"


def test_a_form_is_looked_into(gate: Door, port: int, origin: Origin) -> None:
    """c-icap sends the whole upload as one file, which contains the parts of the form."""
    gate.open()
    for what, made in (("clean", "passes"), ("match", "blocked"), ("archive", "blocked")):
        body, kind = form(FILES[what])
        assert put(port, origin, body, "POST", kind) == made
