"""Attacks from a place between provider and client, or on the client's cache: one test each.

Each attack ends in the right exit code and in a message that says what is wrong. The lists on disk
do not change by a byte, and scans still use the old generation.
"""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from securesystemslib.signer import CryptoSigner

from fixtures import hostile
from fixtures.client import Client, content
from fixtures.hostile import Behaviour, Connection, HostileServer, Request, reply
from fixtures.simulator import Simulator, endless, status, truncated
from fixtures.tls import Authority, server_context
from hashclient.cli import main as command
from hashclient.core.errors import ExitCode, HashclientError
from tests.attack_world import ALL, NEW, Generations, new_root_key, refused, roles_of

# Changed bytes that no signature covers


@pytest.mark.slow
@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"null",
        b"[]",
        b"{}",
        b'{"signed": {"_type": "timestamp"}, "signatures": []}',
        b'{"signed": {"_type": "\\u001b[2J\\ud800"}, "signatures": []}',
        b"[" * 10_000,
        b'{"a":' * 3_000,
        b"\xff\xfe",
        b'{"signed": 1e999}',
        b'{"signed": ' + b"9" * 5000 + b"}",
        b"<html>login</html>",
    ],
)
@pytest.mark.parametrize("path", ["metadata/timestamp.json", "metadata/2.root.json"])
def test_metadata_that_is_none(
    client: Client, simulator: Simulator, path: str, data: bytes
) -> None:
    simulator.files[path] = data
    refused(client, ExitCode.UNVERIFIED, "provider main")


# Attacks in the network that concern trust


@pytest.mark.parametrize("pattern", ["metadata/timestamp.json", "*.snapshot.json", "targets/*"])
def test_endless_body(client: Client, world: Generations, pattern: str) -> None:
    world.simulator.files = dict(world.served[3])
    world.simulator.faults[pattern] = endless
    refused(client, ExitCode.UNVERIFIED, "longer than")


@pytest.mark.parametrize("pattern", ["metadata/timestamp.json", "*.snapshot.json", "targets/*"])
def test_truncated_body(client: Client, world: Generations, pattern: str) -> None:
    world.simulator.files = dict(world.served[3])
    world.simulator.faults[pattern] = truncated
    refused(client, ExitCode.UNREACHABLE, "cut short")


@pytest.mark.parametrize("code", [401, 403])
@pytest.mark.parametrize(
    "pattern", ["*", "metadata/timestamp.json", "*.snapshot.json", "targets/*"]
)
def test_revoked_credential(client: Client, world: Generations, pattern: str, code: int) -> None:
    world.simulator.files = dict(world.served[3])
    world.simulator.faults[pattern] = status(code)
    refused(client, ExitCode.UNAUTHORISED, str(code))


@pytest.mark.parametrize("code", [404, 500])
@pytest.mark.parametrize("pattern", ["metadata/timestamp.json", "*.snapshot.json", "targets/*"])
def test_file_that_is_not_there(
    client: Client, world: Generations, pattern: str, code: int
) -> None:
    world.simulator.files = dict(world.served[3])
    world.simulator.faults[pattern] = status(code)
    refused(client, ExitCode.UNREACHABLE, str(code))


def test_next_root_that_fails_is_not_taken_for_missing(client: Client, world: Generations) -> None:
    world.simulator.faults["metadata/2.root.json"] = status(500)
    refused(client, ExitCode.UNREACHABLE, "500")


# The cached metadata


def cache_files(client: Client) -> list[Path]:
    directory = client.settings.layout.provider("main")
    return sorted(p for p in directory.rglob("*") if p.is_file() and p.name != "pinned-root.json")


@pytest.mark.sampled
@pytest.mark.parametrize("data", [b"", b"{}", b"\xff" * 100])
def test_tampered_cache_heals(client: Client, world: Generations, data: bytes) -> None:
    world.simulator.files = dict(world.served[3])
    assert len(cache_files(client)) == 6
    for number in range(len(cache_files(client))):
        victim = cache_files(client)[number]
        victim.write_bytes(data)
        assert client.fetch()[0].generation == 3
        assert victim.read_bytes() != data
        assert client.numbers(ALL) == NEW


def test_cached_root_of_a_thief_does_not_count(client: Client, world: Generations) -> None:
    """The cache is not trusted: cached metadata counts only if the pinned root leads to it."""
    thief = CryptoSigner.generate_ed25519()
    metadata = world.simulator.metadata("root")
    new_root_key(thief)(metadata.signed)
    metadata.signed.version = 2
    metadata.sign(thief)
    folder = client.settings.layout.provider("main") / "metadata"
    (folder / "root_history" / "2.root.json").write_bytes(metadata.to_bytes())
    (folder / "root.json").unlink()
    (folder / "root.json").symlink_to("root_history/2.root.json")
    world.simulator.files = dict(world.served[3])
    assert client.fetch()[0].generation == 3
    assert (folder / "root.json").resolve().name == "1.root.json"


def test_pinned_root_that_was_exchanged_is_refused(client: Client, world: Generations) -> None:
    path = client.settings.layout.provider("main") / "pinned-root.json"
    path.write_bytes(path.read_bytes() + b" ")
    refused(client, ExitCode.STATE, "pinned root is not the root")
    path.unlink()
    before = client.list_files()
    with pytest.raises(HashclientError, match="cannot read pinned root") as caught:
        client.fetch()
    assert caught.value.exit_code is ExitCode.STATE
    assert client.list_files() == before


# The same attacks through the real command, over HTTPS


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


TOKEN = "t0ken-that-must-not-leak"


class Site:
    """A provider on loopback and a state directory that was made by `init` and `fetch`."""

    def __init__(self, directory: Path, simulator: Simulator, authority: Authority) -> None:
        self.simulator = simulator
        self.state = directory / "state"
        self.server = HostileServer(server_context(authority.issue("site")))
        token = directory / "token"
        token.touch(mode=0o600)
        token.write_text(TOKEN)
        root = directory / "root.json"
        root.write_bytes(simulator.root)
        (directory / "inputs").mkdir()
        for number in (0, 3, 17):
            (directory / "inputs" / str(number)).write_bytes(content(number))
        self.inputs = str(directory / "inputs")
        self.serve()
        self.run(
            "init",
            self.server.origin,
            "--root",
            str(root),
            "--token-file",
            str(token),
            "--ca",
            str(authority.ca),
        )
        self.run("fetch")

    def serve(self, answer: Callable[[bytes], Behaviour] = reply) -> None:
        """Serve the simulator's files to clients that send the token."""
        self.server._scripts.clear()
        for path, data in self.simulator.files.items():
            self.server.on(f"/{path}", self._guarded(answer(data)))

    @staticmethod
    def _guarded(behaviour: Behaviour) -> Behaviour:
        def behave(connection: Connection, request: Request) -> bool:
            known = request.header("authorization") == f"Bearer {TOKEN}"
            return (behaviour if known else reply(status=401))(connection, request)

        return behave

    def run(self, *arguments: str) -> tuple[int, str, str]:
        """Run the command in this process, and return its exit code, stdout and stderr."""
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = command._run(["--state-dir", str(self.state), *arguments])
        assert TOKEN not in out.getvalue() + err.getvalue()
        return code, out.getvalue(), err.getvalue()

    def matches(self) -> set[str]:
        _, out, _ = self.run("scan", self.inputs, "--format", "jsonl")
        lines = [json.loads(line) for line in out.splitlines()]
        return {line["entry"] for line in lines if line["type"] == "match"}


@pytest.fixture
def site(simulator: Simulator, tmp_path: Path, authority: Authority) -> Iterator[Site]:
    site = Site(tmp_path, simulator, authority)
    with site.server:
        assert site.matches() == {"e-0", "e-3"}
        site.server.requests.clear()
        yield site


@pytest.mark.sampled
@pytest.mark.parametrize("attack", ["rollback", "freeze", "signature", "mixed", "format", "vanish"])
def test_attack_on_the_command(site: Site, world: Generations, attack: str) -> None:
    simulator = site.simulator
    expected, message = 6, "hashclient: error: provider main"
    if attack == "rollback":
        simulator.files = dict(world.served[1])
    elif attack == "freeze":
        simulator.expire("timestamp")
        expected, message = 7, "since 2020-01-01 00:00 UTC"
    elif attack == "signature":
        simulator.edit("snapshot", signers=[])
    elif attack == "mixed":
        simulator.edit("baseline")
        simulator.files[simulator._path("baseline")] = b"{}"
    elif attack == "format":
        simulator.replace_target("index.json", b"\xff")
        message = "index of list baseline is not valid"
    else:
        simulator.edit("targets", lambda s: roles_of(s).clear())
        message = "does not offer list baseline"
    site.serve()
    lists = {p: p.read_bytes() for p in sorted((site.state / "lists").rglob("*")) if p.is_file()}
    code, out, err = site.run("fetch")
    assert code == expected and out == ""
    assert message in err and "Traceback" not in err
    assert site.matches() == {"e-0", "e-3"}
    assert lists == {
        p: p.read_bytes() for p in sorted((site.state / "lists").rglob("*")) if p.is_file()
    }


@pytest.mark.slow
def test_provider_that_is_honest_again_is_followed(site: Site, world: Generations) -> None:
    site.simulator.files = dict(world.served[1])
    site.serve()
    assert site.run("fetch")[0] == 6
    site.simulator.files = dict(world.served[3])
    site.serve()
    assert site.run("fetch")[0] == 0
    assert site.matches() == {"e-3"}


@pytest.mark.slow
def test_refusals_are_in_the_audit_log(site: Site) -> None:
    site.simulator.edit("snapshot", signers=[])
    site.serve()
    assert site.run("fetch")[0] == 6
    log = "".join(p.read_text() for p in (site.state / "audit").iterdir() if p.is_file())
    assert '"refused"' in log and "snapshot was signed by 0/1 keys" in log
    assert site.run("audit", "verify")[0] == 0


@pytest.mark.parametrize("code", [401, 403])
def test_wrong_credential_on_the_command(site: Site, code: int) -> None:
    site.serve(lambda _: reply(status=code))
    for path in ("/metadata/2.root.json", "/metadata/timestamp.json"):
        site.server.on(path, reply(status=code))
    exit_code, _, err = site.run("fetch")
    assert exit_code == 5 and str(code) in err
    assert site.matches() == {"e-0", "e-3"}


@pytest.mark.slow
def test_redirect_on_the_command(site: Site) -> None:
    with HostileServer() as other:
        elsewhere = [("Location", f"{other.origin}/x")]
        site.serve(lambda _: reply(status=302, headers=elsewhere))
        assert site.run("fetch")[0] == 4
        assert other.requests == []
    assert site.matches() == {"e-0", "e-3"}


@pytest.mark.slow
def test_truncated_body_on_the_command(
    site: Site, world: Generations, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hashclient.net.deadline.Limits.attempts", 1, raising=False)
    site.simulator.files = dict(world.served[3])
    site.serve(
        lambda data: hostile.raw(
            hostile.head(200, [("Content-Length", str(len(data)))]) + data[: len(data) // 2]
        )
    )
    code, _, err = site.run("fetch")
    assert code == 4 and "hashclient: error: " in err
    assert site.matches() == {"e-0", "e-3"}


def test_compressed_body_on_the_command(site: Site) -> None:
    site.serve(lambda data: reply(data, headers=[("Content-Encoding", "gzip")]))
    assert site.run("fetch")[0] == 6


@pytest.mark.slow
def test_a_fetch_without_news_costs_two_small_requests(site: Site, world: Generations) -> None:
    code, out, _ = site.run("fetch")
    assert code == 0 and "nothing new, generation 2" in out
    assert [r.target for r in site.server.requests] == [
        "/metadata/2.root.json",
        "/metadata/timestamp.json",
    ]
    site.server.requests.clear()
    site.simulator.files = dict(world.served[3])
    site.serve()
    code, out, _ = site.run("fetch")
    assert code == 0 and "0 added, 2 withdrawn" in out
    metadata = [r.target for r in site.server.requests if r.target.startswith("/metadata/")]
    assert len(metadata) == 4
    targets = [r.target for r in site.server.requests if r.target.startswith("/targets/")]
    assert [t.split(".", 1)[1] for t in targets] == [
        "index.json",
        "g000003-withdraw-000.parquet",
    ]
    assert site.matches() == {"e-3"}
