"""Hints of `init` after a failure: they fit the reason, if it is known."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from fixtures.client import csv
from fixtures.hostile import reply
from fixtures.tls import Authority
from hashclient.provider.repository import Repository
from tests.hostile_site import TOKEN, HostileSite
from tests.kit import Run, Site, call


@pytest.fixture
def site(tmp_path: Path) -> Iterator[HostileSite]:
    with HostileSite(tmp_path, Authority(tmp_path)) as site:
        yield site


def init(site: HostileSite, token: str = TOKEN) -> Run:
    arguments = site.init_arguments("--token-file", site.secret_file(token))
    return call("--state-dir", site.state, *arguments)


def compressed(site: HostileSite) -> None:
    page = reply(b"x", headers=[("Content-Encoding", "gzip")])
    site.server.on("/metadata/2.root.json", page)


def endless(site: HostileSite) -> None:
    site.server.on("/metadata/2.root.json", reply(bytes(600_000)))


def html(site: HostileSite) -> None:
    site.server.on("/metadata/2.root.json", reply(b"<!doctype html><title>Welcome</title>"))


def inconsistent(site: HostileSite) -> None:
    simulator = site.simulator
    simulator.edit("root", lambda root: setattr(root, "consistent_snapshot", False))
    for role in ("snapshot", "targets"):
        simulator.files[f"metadata/{role}.json"] = simulator.files[simulator._path(role)]
    site.serve()


def foreign(site: HostileSite) -> None:
    repository = Repository(site.directory / "foreign", clock=lambda: datetime.now(UTC))
    repository.create()
    site.root.write_bytes(repository.root_file.read_bytes())


def expired(site: HostileSite) -> None:
    site.simulator.now = datetime.now(UTC) - timedelta(days=30)
    site.simulator.renew()
    site.simulator.renew()
    site.serve()


def greedy(site: HostileSite) -> None:
    site.simulator.edit("targets", lambda s: setattr(s.delegations.roles["baseline"], "paths", []))
    site.serve()


ROOT_HINT = "check the URL, and that this is the root of this provider: "

FAULTS: dict[str, tuple[Callable[[HostileSite], None], int, str]] = {
    "compressed": (compressed, 6, "hash lists are served without Content-Encoding"),
    "too long": (endless, 6, "the provider's server sends something else than the signed file"),
    "a page": (html, 6, ROOT_HINT),
    "names without versions": (inconsistent, 6, "the provider has to publish under names that"),
    "another provider's root": (foreign, 6, ROOT_HINT),
    "expired": (
        expired,
        7,
        "the provider has to sign again; if it has, check this machine's clock",
    ),
    "a delegation that is none": (greedy, 6, "nothing was changed; tell the provider"),
}


@pytest.mark.sampled
@pytest.mark.parametrize("name", FAULTS)
def test_the_hint_fits_the_reason(site: HostileSite, name: str) -> None:
    spoil, code, hint = FAULTS[name]
    spoil(site)
    result = init(site)
    assert (result.code, result.out) == (code, "")
    assert f"\nhint: {hint}" in result.err
    assert not site.config.exists() and not (site.state / "trust" / "main").exists()


def test_a_refusal_says_what_to_check(site: HostileSite) -> None:
    result = init(site, "another")
    assert result.code == 5
    assert "hint: check the credential, and that it has not been revoked" in result.err


@pytest.mark.slow
def test_a_provider_that_offers_no_list_is_pinned_and_reported(tmp_path: Path) -> None:
    with Site(tmp_path) as site:
        done = site.call(*site.init_arguments())
        assert (done.code, done.out) == (0, "provider main is pinned; it offers: no list yet\n")
        assert (
            "hashclient: warning: provider main offers no list: there is nothing to check files"
            " against\nhint: ask the provider for a list; `hashclient fetch` gets it as soon as "
            "it is offered\n"
        ) in done.err
        assert "next: " not in done.err
        assert site.call("fetch").code == 8
        site.repository.publish("baseline", [("list", io.BytesIO(csv(range(3))))])
        assert site.call("fetch").code == 0
