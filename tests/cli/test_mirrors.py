"""The real command and two addresses of one provider, each with its own credential."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from fixtures import hostile
from fixtures.client import csv
from fixtures.hostile import Behaviour, HostileServer, head, reply
from fixtures.tls import Authority, server_context
from tests.hostile_site import HostileSite
from tests.kit import Run, call

TIMESTAMP = "/metadata/timestamp.json"
SECOND = "0ther-t0ken-of-the-mirror"


class Mirrored(HostileSite):
    """A site with a mirror that needs another token."""

    def __enter__(self) -> Mirrored:
        token = self.secret_file(next(iter(self.secrets)))
        assert self.call(*self.init_arguments("--token-file", token)).code == 0
        self.settle(timeout_s=5.0, attempts=2)
        second = self.secret_file(SECOND, "second")
        with self.config.open("a") as config:
            config.write(
                f"[[providers.main.mirrors]]\nurl = '{self.mirror.origin}'\n"
                f"token_file = '{second}'\nca = '{self.authority.ca}'\n"
            )
        return self

    def __exit__(self, *_: object) -> None:
        super().__exit__()
        self.mirror.close()

    def serve(self, answer: object = None) -> None:
        """Serve the published files from both addresses."""
        super().serve()
        if not hasattr(self, "mirror"):
            self.mirror = HostileServer(server_context(self.authority.issue("mirror")))
        for path, data in self.simulator.files.items():
            self.mirror.on(f"/{path}", reply(data))

    def call(self, *args: object) -> Run:
        return call("--state-dir", self.state, *args)

    def check_credentials(self) -> None:
        """Check that no server has received the credential for the other server."""
        for server, wanted in (
            (self.server, self.authorization),
            (self.mirror, f"Bearer {SECOND}"),
        ):
            assert {request.header("authorization") for request in server.requests} <= {wanted}


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture
def site(tmp_path_factory: pytest.TempPathFactory, authority: Authority) -> Iterator[Mirrored]:
    with Mirrored(tmp_path_factory.mktemp("site"), authority) as made:
        made.server.requests.clear()
        yield made


ANSWERS: dict[str, tuple[Behaviour, str]] = {
    "it drips": (hostile.dripped(head(200) + b"{"), "too slow"),
    "it ends early": (hostile.raw(head(200, [("Content-Length", "400")]), b"{"), "cut short"),
    "it is busy for an hour": (reply(status=503, headers=[("Retry-After", "3600")]), "busy"),
    "it has nothing": (reply(status=404), "404"),
    "it refuses the credential": (reply(status=403), "refuses the credential"),
    "it lies": (reply(b"{}"), "passed over"),
    "it does not end": (hostile.endless(head(200), b"x" * 65536), "longer than"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", ANSWERS)
def test_after_a_failure_of_the_first_address_the_mirror_is_used(site: Mirrored, name: str) -> None:
    behaviour, message = ANSWERS[name]
    site.server.on(TIMESTAMP, behaviour)
    done = site.call("fetch", "--format", "json")
    assert done.code == 0, done.err
    assert f"warning: {site.server.origin} is passed over: " in done.err and message in done.err
    (fetched,) = json.loads(done.out)["lists"]
    assert (fetched["source"], fetched["generation"]) == (site.mirror.origin, 1)
    site.check_credentials()
    site.check_scans()
    assert f"at {site.mirror.origin}\n" in site.call("status").out
    refused = site.call("audit", "show", "--event", "refused", "--format", "jsonl")
    assert site.server.origin in refused.out


@pytest.mark.slow
def test_a_redirect_to_the_mirror_takes_no_credential_there(site: Mirrored) -> None:
    where = ("Location", f"{site.mirror.origin}{TIMESTAMP}")
    site.server.on(TIMESTAMP, reply(status=302, headers=[where]))
    assert site.run("fetch").code == 0
    site.check_credentials()
    assert len(site.mirror.requests) > 2


def test_the_mirror_is_not_asked_without_need(site: Mirrored) -> None:
    assert site.call("fetch").code == 0
    site.server.requests.clear()
    again = site.call("fetch")
    assert again.code == 0 and again.out.startswith("list baseline: nothing new")
    assert len(site.server.requests) == 2 and not site.mirror.requests


@pytest.mark.slow
@pytest.mark.parametrize("refusing", ["the first", "the mirror", "both"])
def test_a_list_that_an_address_refuses_comes_from_another(site: Mirrored, refusing: str) -> None:
    site.simulator.publish(csv(range(5, 8)), "other")
    site.serve()
    for server, name in ((site.server, "the first"), (site.mirror, "the mirror")):
        if refusing in (name, "both"):
            server.on("/metadata/1.other.json", reply(status=403))
    for _ in range(2):
        done = site.call("fetch", "--format", "json")
        assert (done.code, done.err) == (0, "")
        here = ["baseline"] if refusing == "both" else ["baseline", "other"]
        assert sorted(one["list"] for one in json.loads(done.out)["lists"]) == here
        status = site.call("status", "--format", "json")
        assert status.code == 0, status.err
        assert [one["name"] for one in json.loads(status.out)["lists"]] == here
    site.check_credentials()


def test_when_both_fail_the_worse_decides(site: Mirrored) -> None:
    site.server.on(TIMESTAMP, reply(b"{}"))
    site.mirror.on(TIMESTAMP, reply(status=404))
    done = site.call("fetch")
    assert done.code == 6
    assert f"{site.server.origin} is passed over" in done.err
    assert site.call("status").code != 0
    site.check_credentials()
