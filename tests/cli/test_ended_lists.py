"""`provider list end`: clients drop the list and withdraw its matches, but no other matches."""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from fixtures.client import Client, csv
from fixtures.simulator import URL, Simulator
from hashclient.config.settings import Config
from hashclient.config.tables import ProviderConfig
from hashclient.core.errors import ExitCode, VerificationError
from hashclient.fetch import fetcher
from hashclient.fetch.places import Place
from hashclient.fetch.providers import fetch_in_turn
from hashclient.migrations.migrate import writing
from hashclient.provider.drafts import load_draft
from hashclient.system.files import make_private_dir, write_atomic
from hashclient.system.layout import PINNED_ROOT_NAME
from hashclient.trust.additions import ENDED
from tests.kit import call, csv_of, write_tree
from tests.kit.site import Site

FILES = {"both": b"in both lists", "typo": b"in the list with the wrong name"}


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    """A provider of two lists, one with a misspelt name, and a client with matches of both."""
    with Site(tmp_path) as site:
        site.publish(csv_of({"e-1": FILES["both"]}))
        site.publish(csv_of({"t-1": FILES["both"], "t-2": FILES["typo"]}), "basline")
        write_tree(tmp_path / "files", FILES)
        assert site.call(*site.init_arguments()).code == 0
        assert site.call("fetch").code == 0
        assert site.call("scan", tmp_path / "files").code == ExitCode.MATCH
        yield site


def end(site: Site, name: str = "basline") -> str:
    done = call("provider", "list", "end", site.repository.directory, name)
    assert done.code == 0, done.err
    return done.out


def states(site: Site) -> dict[str, str]:
    return {
        Path(line["path"]).name: line["state"]
        for line in site.call("matches", "--format", "jsonl").lines
        if "state" in line
    }


@pytest.mark.slow
def test_a_client_drops_the_list_and_withdraws_its_matches(site: Site, tmp_path: Path) -> None:
    assert end(site) == "list basline has ended: clients remove it with their next fetch\n"
    fetched = site.call("fetch")
    assert fetched.code == 0, fetched.err
    assert "list basline: its provider has ended the list; it is not used any more\n" in fetched.out
    assert "withdrawn entries of list basline had matched 2 paths:" in fetched.out
    assert "but still matches another entry" in fetched.out
    assert [path.name for path in (site.state / "lists").iterdir()] == ["baseline"]
    assert states(site) == {"both": "found", "typo": "withdrawn"}
    scanned = site.call("scan", tmp_path / "files", "--format", "jsonl")
    assert scanned.code == ExitCode.MATCH
    assert {Path(p).name for p, kind in scanned.outcomes.items() if kind == "match"} == {"both"}
    assert site.call("status").code == 0
    logged = site.call("audit", "show", "--format", "jsonl").lines
    events = [record["event"] for record in logged]
    assert events.count("list-ended") == 1
    assert events.count("withdrawn") == 2
    again = site.call("fetch", "--format", "json")
    assert (again.code, [f["list"] for f in json.loads(again.out)["lists"]]) == (0, ["baseline"])
    assert site.call("audit", "verify").code == site.call("status", "--verify").code == 0


@pytest.mark.slow
def test_a_list_that_the_configuration_names_is_not_missed_when_it_has_ended(
    site: Site, tmp_path: Path
) -> None:
    config = site.state / "config.toml"
    both = '[providers.main]\nlists = ["baseline", "basline"]\n'
    text = config.read_text()
    name = text.partition("[providers.")[2].partition("]")[0]
    config.write_text(text.replace(f"[providers.{name}]\n", both.replace("main", name)))
    assert site.call("fetch").code == 0
    end(site)
    for _ in range(2):
        fetched = site.call("fetch")
        assert fetched.code == 0, fetched.err
        assert f"remove it from `lists` of provider {name}" in fetched.out
        assert site.call("status").code == 0
    (tmp_path / "files" / "both").unlink()
    assert site.call("scan", tmp_path / "files").code == 0


@pytest.mark.slow
def test_the_only_list_may_end(site: Site) -> None:
    end(site)
    end(site, "baseline")
    assert site.call("fetch").code == 0
    assert list((site.state / "lists").iterdir()) == []
    assert set(states(site).values()) == {"withdrawn"}
    empty = site.call("fetch")
    assert "no list is offered" in empty.err


@pytest.mark.slow
def test_an_ended_name_is_not_used_again_and_status_shows_it(site: Site, tmp_path: Path) -> None:
    end(site)
    repo = site.repository.directory
    assert not list((repo / "keys").glob("basline-*"))
    path = tmp_path / "more.csv"
    path.write_bytes(csv(range(3, 5)))
    refused = call("provider", "publish", repo, "--list", "basline", "--new-list", path)
    assert (refused.code, "list basline has ended" in refused.err) == (2, True)
    assert call("provider", "list", "end", repo, "basline").code == 2
    shown = call("provider", "status", repo)
    assert "\n\nended: basline\n" in shown.out
    found = json.loads(call("provider", "status", repo, "--format", "json").out)
    assert found["ended_lists"] == ["basline"]
    # Publishing and renewing still work, and the new metadata still names the list as ended.
    assert call("provider", "publish", repo, "--list", "baseline", path).code == 0
    assert call("provider", "renew", repo).code == 0
    assert site.repository.status().ended == ("basline",)
    assert "basline.json" in site.repository.load().snapshot.signed.meta


@pytest.mark.slow
def test_a_bundle_is_without_it_and_ends_it_as_well(site: Site, tmp_path: Path) -> None:
    end(site)
    bundle = tmp_path / "lists.bundle"
    done = call("provider", "export", site.repository.directory, "--to", bundle, "--format", "json")
    assert done.code == 0, done.err
    assert [entry["list"] for entry in json.loads(done.out)["lists"]] == ["baseline"]
    fetched = site.call("fetch", "--from", bundle)
    assert fetched.code == 0, fetched.err
    assert "list basline: its provider has ended the list" in fetched.out


def test_max_churn_keeps_the_list_until_a_person_says_so(site: Site) -> None:
    config = site.state / "config.toml"
    head, table, rest = config.read_text().partition("[providers.")
    name, close, keys = rest.partition("]\n")
    config.write_text(f"{head}{table}{name}{close}max_churn = 0.5\n{keys}")
    end(site)
    refused = site.call("fetch")
    assert refused.code == ExitCode.UNVERIFIED
    assert "list basline has ended, and max_churn limits" in refused.err
    assert states(site) == {"both": "found", "typo": "found"}
    assert site.call("fetch", "--accept-churn").code == 0
    assert states(site) == {"both": "found", "typo": "withdrawn"}


@pytest.fixture
def simulator(tmp_path: Path) -> Simulator:
    simulator = Simulator(tmp_path / "repo")
    simulator.publish(csv(range(3)))
    simulator.publish(csv(range(3, 6)), "other")
    return simulator


def test_a_kill_before_the_folder_is_removed_is_made_up_for(
    simulator: Simulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = Client(tmp_path / "state", simulator, simulator.root)
    client.fetch()
    simulator.repository.end_list("other")
    simulator.serve_published()

    class Killed(BaseException):
        pass

    def kill(_: Path) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(fetcher, "remove_list", kill)
        with pytest.raises(Killed):
            client.fetch()
    assert client.numbers(range(6)) == set(range(6))
    # Another kill left the folder under its temporary name.
    lists = tmp_path / "state" / "lists"
    shutil.copytree(lists / "other", lists / ".tmp-other")
    client.fetch()
    assert client.numbers(range(6)) == set(range(3))
    assert [path.name for path in lists.iterdir()] == ["baseline"]


@pytest.mark.sampled
@pytest.mark.parametrize(
    ("value", "message"),
    [
        (["baseline"], "names a list that is delegated"),
        (["old", "old"], "has a name twice"),
        ([f"l{n}" for n in range(1025)], "more than 1,024"),
        ("other", "no array of names"),
        ([1], "no array of names"),
        (["../x"], "no array of names"),
    ],
)
def test_a_member_that_is_malformed_is_refused(
    simulator: Simulator, tmp_path: Path, value: object, message: str
) -> None:
    client = Client(tmp_path / "state", simulator, simulator.root)
    simulator.edit("targets", lambda signed: signed.unrecognized_fields.update({ENDED: value}))
    with pytest.raises(VerificationError, match=message):
        client.fetch()


def test_a_list_of_another_provider_is_not_dropped(simulator: Simulator, tmp_path: Path) -> None:
    """The provider that ended list `a` is also configured to offer a list of another provider."""
    other = Simulator(tmp_path / "another")
    other.publish(csv(range(3)), "other")
    other.publish(csv(range(3, 6)), "theirs")
    client = Client(tmp_path / "state", simulator, simulator.root)
    client.fetch()
    other.repository.end_list("other")
    other.serve_published()
    second = ProviderConfig(
        url=URL, root_sha256=hashlib.sha256(other.root).hexdigest(), lists=("other", "theirs")
    )
    both = Config(providers={**client.settings.config.providers, "second": second})
    client.settings = msgspec.structs.replace(client.settings, config=both)
    write_atomic(
        make_private_dir(client.settings.layout.provider("second")) / PINNED_ROOT_NAME, other.root
    )
    place = Place(URL, URL, lambda: contextlib.nullcontext(other))
    with writing(client.settings.layout):
        results = list(fetch_in_turn(client.session, "second", [place]))
    assert [(r.list_name, r.is_ended, r.before) for r in results] == [
        ("theirs", False, None),
        ("other", True, None),
    ]
    assert client.manifest("other") is not None


def test_a_draft_of_people_ends_a_list(simulator: Simulator, tmp_path: Path) -> None:
    repo, draft = simulator.repository.directory, tmp_path / "draft"
    made = call("provider", "list", "end", repo, "other", "--draft", draft)
    assert made.code == 0, made.err
    assert simulator.repository.status().ended == ()
    shown = call("provider", "draft", "show", draft, "--root", repo / "root.json")
    assert "list other ends: clients remove it, and withdraw its matches" in shown.out
    assert load_draft(draft).ended() == ["other"]
    published = call("provider", "draft", "publish", repo, draft)
    assert published.code == 0, published.err
    assert simulator.repository.status().ended == ("other",)
    assert not list((repo / "keys").glob("other-*"))
    simulator.serve_published()
    client = Client(tmp_path / "state", simulator, simulator.root)
    assert [fetched.list_name for fetched in client.fetch()] == ["baseline"]
    log = call("provider", "log", "show", repo, "--event", "draft-published", "--format", "jsonl")
    assert log.lines[-1]["data"]["ended"] == ["other"]


@pytest.mark.parametrize("ended", [["other", "third"], ["never"], []])
def test_a_draft_that_says_more_or_less_of_ended_lists_is_refused(
    simulator: Simulator, tmp_path: Path, ended: list[str]
) -> None:
    simulator.publish(csv(range(6, 9)), "third")
    repo, draft = simulator.repository.directory, tmp_path / "draft"
    assert call("provider", "list", "end", repo, "other", "--draft", draft).code == 0
    targets = draft / "roles" / "targets.json"
    document = json.loads(targets.read_text())
    document["signed"][ENDED] = ended
    targets.write_text(json.dumps(document))
    shutil.rmtree(draft / "signatures")
    with pytest.raises(VerificationError):
        load_draft(draft)
