"""Trust: python-tuf over the project's transport, and additional rules of the project.

Hostile metadata in a fetch is tested in `tests/faults/test_attacks_trust.py`. This file tests valid
metadata, also with an independent client.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from securesystemslib.signer import CryptoSigner, SSlibKey
from tuf.api.exceptions import (
    DownloadError,
    DownloadHTTPError,
    DownloadLengthMismatchError,
    RepositoryError,
)
from tuf.api.metadata import DelegatedRole, Metadata, MetaFile, TargetFile, Targets
from tuf.ngclient import Updater

from fixtures.client import csv
from fixtures.crash import Recorder, watched
from fixtures.hostile import HostileServer, reply
from fixtures.simulator import URL, Simulator, status
from hashclient.core.errors import (
    AuthorisationError,
    StateError,
    UnreachableError,
    VerificationError,
)
from hashclient.net.client import Access, Transport
from hashclient.trust.tuf import Source, Trust, TufFetcher
from tests.kit import open_files

INDEX = "lists/baseline/index.json"


@pytest.fixture
def simulator(tmp_path: Path) -> Simulator:
    simulator = Simulator(tmp_path / "repo")
    simulator.publish(csv(range(3)))
    simulator.requests.clear()
    return simulator


@pytest.fixture
def opened(simulator: Simulator, tmp_path: Path) -> Callable[[], Trust]:
    """Return a function that opens the trust of one directory, like the next run."""
    pinned = simulator.root

    def make() -> Trust:
        return Trust(tmp_path / "trust", URL, simulator, pinned, name="main", now=datetime.now(UTC))

    return make


Opened = Callable[[], Trust]


def updater_of(directory: Path, source: Source, url: str, root: bytes) -> Updater:
    """Return python-tuf's own client over the project's fetcher, with all its features."""
    for name in ("metadata", "targets"):
        (directory / name).mkdir(parents=True, exist_ok=True)
    return Updater(
        str(directory / "metadata"),
        f"{url}/metadata/",
        str(directory / "targets"),
        f"{url}/targets/",
        fetcher=TufFetcher(source),
        bootstrap=root,
    )


def serve(server: HostileServer, simulator: Simulator) -> None:
    for path, data in simulator.files.items():
        server.on(f"/{path}", reply(data))


# An independent client


def test_a_plain_updater_works_over_the_fetcher(simulator: Simulator, tmp_path: Path) -> None:
    updater = updater_of(tmp_path / "plain", simulator, URL, simulator.root)
    updater.refresh()
    info = updater.get_targetinfo(INDEX)
    assert info is not None
    path = Path(updater.download_target(info))
    assert hashlib.sha256(path.read_bytes()).hexdigest() == info.hashes["sha256"]
    assert updater.find_cached_target(info) == str(path)
    assert updater.get_targetinfo("lists/baseline/nothing") is None


def test_a_plain_updater_works_over_http_on_loopback(simulator: Simulator, tmp_path: Path) -> None:
    with HostileServer() as server:
        serve(server, simulator)
        with Transport(Access(server.origin, allow_http=True)) as transport:
            updater = updater_of(tmp_path / "plain", transport, server.origin, simulator.root)
            updater.refresh()
            info = updater.get_targetinfo(INDEX)
            assert info is not None
            data = Path(updater.download_target(info)).read_bytes()
    assert data == simulator.files[simulator.target_path("index.json")]


def test_a_plain_updater_sees_errors_as_it_expects_them(
    simulator: Simulator, tmp_path: Path
) -> None:
    simulator.faults["metadata/timestamp.json"] = status(404)
    updater = updater_of(tmp_path / "plain", simulator, URL, simulator.root)
    with pytest.raises(DownloadHTTPError) as caught:
        updater.refresh()
    assert caught.value.status_code == 404


def test_the_fetcher_streams_too(simulator: Simulator) -> None:
    fetcher = TufFetcher(simulator)
    body = simulator.files["metadata/timestamp.json"]
    assert b"".join(fetcher.fetch(f"{URL}/metadata/timestamp.json")) == body
    with fetcher.download_file(f"{URL}/metadata/timestamp.json", len(body)) as stream:
        assert stream.read() == body
    with pytest.raises(DownloadError):
        b"".join(fetcher.fetch(f"{URL}/metadata/nothing.json"))


@pytest.mark.sampled
@pytest.mark.parametrize("name", ["?", "#", "../x", "/x", ".", "..", "a b", "ä", "%2e%2e"])
def test_unusual_role_names_get_through_the_transport(
    simulator: Simulator, tmp_path: Path, name: str
) -> None:
    """The transport reads any TUF repository, even one with names that no list may have."""
    add_role(simulator, name, "odd/*")
    with HostileServer() as server:
        serve(server, simulator)
        with Transport(Access(server.origin, allow_http=True)) as transport:
            updater = updater_of(tmp_path / "plain", transport, server.origin, simulator.root)
            updater.refresh()
            info = updater.get_targetinfo("odd/file")
            assert info is not None and info.length == 4
        asked = server.requests[-1].target
    assert asked == f"/metadata/1.{quote(name, '')}.json"


def add_role(simulator: Simulator, name: str, pattern: str) -> None:
    """Delegate `pattern` to a role with any name that signs one file."""
    signer = CryptoSigner.generate_ed25519()
    target = TargetFile.from_data("odd/file", b"odd!", ["sha256"])
    role = Metadata(Targets(targets={target.path: target}))
    role.signed.expires = datetime.now(UTC) + timedelta(days=1)
    role.sign(signer)

    def delegate(signed: Any) -> None:
        signed.delegations.roles[name] = DelegatedRole(
            name, [], 1, terminating=True, paths=[pattern]
        )
        signed.add_key(signer.public_key, name)

    simulator.edit("targets", delegate)
    simulator.edit("snapshot", lambda s: s.meta.update({f"{name}.json": MetaFile(1)}))
    simulator.files[f"metadata/1.{quote(name, '')}.json"] = role.to_bytes()


@pytest.mark.parametrize("name", ["?", "../x", "/x", "a b"])
def test_a_list_cannot_have_an_unusual_name(
    simulator: Simulator, opened: Opened, name: str
) -> None:
    add_role(simulator, name, f"lists/{name}/*")
    trust = opened()
    trust.refresh()
    with pytest.raises(VerificationError, match="is not for the files of the list"):
        trust.lists()


# Actions of a provider


def test_verified_targets_are_returned(simulator: Simulator, opened: Opened) -> None:
    trust = opened()
    trust.refresh()
    assert trust.lists() == ["baseline"]
    info = trust.target("baseline", "index.json")
    data = trust.download(info, 1 << 20)
    assert data == simulator.files[simulator.target_path("index.json")]
    roles = ("root", "timestamp", "snapshot", "targets", "baseline")
    assert trust.expires("baseline") == min(simulator.metadata(r).signed.expires for r in roles)


def test_requests_are_as_few_as_can_be(simulator: Simulator, opened: Opened) -> None:
    opened().refresh()
    assert len(simulator.requests) == 4
    simulator.requests.clear()
    opened().refresh()
    assert simulator.requests == ["metadata/2.root.json", "metadata/timestamp.json"]


def test_metadata_is_parsed_as_often_for_many_segments_as_for_one(
    simulator: Simulator, opened: Opened, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The metadata of a list is parsed once and not for each segment, which took quadratic time."""
    data = b"a segment"
    names = [f"g{number:06d}-add-000.parquet" for number in range(100)]
    paths = [f"lists/baseline/{name}" for name in names]
    targets = {path: TargetFile.from_data(path, data, ["sha256"]) for path in paths}
    simulator.edit("baseline", lambda signed: signed.targets.update(targets))
    digest = hashlib.sha256(data).hexdigest()
    simulator.files |= {f"targets/lists/baseline/{digest}.{name}": data for name in names}
    parse = Metadata.from_bytes
    parsed: list[bytes] = []

    def counted(text: bytes, *more: Any) -> Metadata[Any]:
        parsed.append(text)
        return parse(text, *more)

    monkeypatch.setattr(Metadata, "from_bytes", counted)
    counts = []
    for some in (names[:1], names):
        parsed.clear()
        trust = opened()
        trust.refresh()
        assert trust.lists() == ["baseline"]
        # The target of a segment is found without reading a file, so the directory may be missing.
        trust.target("baseline", "index.json")
        (tmp_path / "trust").rename(tmp_path / "away")
        for name in some:
            assert trust.download(trust.target("baseline", name), len(data)) == data
            assert trust.expires("baseline") > datetime.now(UTC) and trust.epoch()
        (tmp_path / "away").rename(tmp_path / "trust")
        counts.append(len(parsed))
    # The first run has an empty cache; the second run parses the cached root, timestamp and
    # snapshot.
    assert counts[1] <= counts[0] + 3 and max(counts) <= 13


def test_a_provider_without_lists_has_none(tmp_path: Path) -> None:
    simulator = Simulator(tmp_path / "repo")
    now = datetime.now(UTC)
    trust = Trust(tmp_path / "trust", URL, simulator, simulator.root, name="main", now=now)
    trust.refresh()
    assert trust.lists() == []


def test_a_provider_that_delegates_nothing_at_all_has_none(
    simulator: Simulator, opened: Opened
) -> None:
    simulator.edit("targets", lambda signed: setattr(signed, "delegations", None))
    trust = opened()
    trust.refresh()
    assert trust.lists() == []


def _signer(kind: str, scheme: str) -> CryptoSigner:
    """Make a key of a documented kind that signs by `scheme`."""
    private: Any
    if kind == "ed25519":
        private = ed25519.Ed25519PrivateKey.generate()
    elif kind == "rsa":
        private = rsa.generate_private_key(65537, 2048)
    else:
        private = ec.generate_private_key({c.name: c() for c in _CURVES}[kind])
    public = SSlibKey.from_crypto(private.public_key(), scheme=scheme)
    return CryptoSigner(private, public)


_CURVES = (ec.SECP256R1, ec.SECP384R1, ec.SECP521R1)


@pytest.mark.sampled
@pytest.mark.parametrize(
    ("kind", "scheme"),
    [
        ("ed25519", "ed25519"),
        ("secp256r1", "ecdsa-sha2-nistp256"),
        ("secp384r1", "ecdsa-sha2-nistp384"),
        ("secp521r1", "ecdsa-sha2-nistp521"),
        *(("rsa", f"rsassa-pss-sha{bits}") for bits in (256, 384, 512)),
        *(("rsa", f"rsa-pkcs1v15-sha{bits}") for bits in (256, 384, 512)),
    ],
)
def test_every_documented_kind_of_keys_is_accepted(
    simulator: Simulator, opened: Opened, kind: str, scheme: str
) -> None:
    signer = _signer(kind, scheme)
    simulator.edit("root", lambda root: root.add_key(signer.public_key, "timestamp"))
    simulator.edit("timestamp", signers=[signer])
    opened().refresh()


def test_a_root_with_a_key_of_an_unknown_kind_is_refused(
    simulator: Simulator, opened: Opened
) -> None:
    fancy = SSlibKey("ab" * 32, "fancy", "fancier", {"public": "key"})
    simulator.edit("root", lambda root: root.add_key(fancy, "timestamp"))
    with pytest.raises(VerificationError, match=r"root\.json is not metadata: Unsupported"):
        opened().refresh()


def test_fields_that_we_do_not_know_are_passed_over(simulator: Simulator, opened: Opened) -> None:
    for role in ("root", "targets", "baseline", "snapshot", "timestamp"):
        simulator.edit(role, lambda s: s.unrecognized_fields.update({"x-more": {"a": [1]}}))
    trust = opened()
    trust.refresh()
    assert trust.target("baseline", "index.json").length > 0


def test_metadata_without_lengths_and_hashes_is_enough(
    simulator: Simulator, opened: Opened
) -> None:
    def bare(signed: Any) -> None:
        for name, meta in signed.meta.items():
            signed.meta[name] = MetaFile(meta.version)

    simulator.edit("snapshot", bare)
    version = simulator.metadata("snapshot").signed.version
    simulator.edit("timestamp", lambda s: setattr(s, "snapshot_meta", MetaFile(version)))
    trust = opened()
    trust.refresh()
    assert trust.target("baseline", "index.json").length > 0


@pytest.mark.parametrize("wrong", [{"length": 1}, {"hashes": {"sha256": "00" * 32}}], ids=str)
@pytest.mark.parametrize("role", ["targets", "baseline"])
def test_metadata_of_another_length_or_hash_is_refused(
    simulator: Simulator, opened: Opened, role: str, wrong: dict[str, Any]
) -> None:
    version = simulator.metadata(role).signed.version
    described = MetaFile(version, **wrong)
    simulator.edit("snapshot", lambda s: s.meta.update({f"{role}.json": described}))

    def load() -> None:
        trust = opened()
        trust.refresh()
        trust.target("baseline", "index.json")

    with pytest.raises(VerificationError, match=r"Observed|Expected|[Ll]ength|longer"):
        load()


@pytest.mark.parametrize("value", [False, None])
def test_a_repository_without_consistent_snapshots_is_refused(
    simulator: Simulator, opened: Opened, value: bool | None
) -> None:
    simulator.edit("root", lambda root: setattr(root, "consistent_snapshot", value))
    data = simulator.files.pop(simulator.target_path("index.json"))
    simulator.files[f"targets/{INDEX}"] = data
    paths = {role: simulator._path(role) for role in ("snapshot", "targets", "baseline")}
    for role, path in paths.items():
        simulator.files[f"metadata/{role}.json"] = simulator.files.pop(path)
    with pytest.raises(VerificationError, match="does not say consistent_snapshot: true") as error:
        opened().refresh()
    assert "publish under names that carry version and hash" in (error.value.hint or "")


@pytest.mark.parametrize(
    ("algorithms", "named_by"),
    [
        (("sha256",), "sha256"),
        (("sha512",), "sha512"),
        (("sha512", "sha256"), "sha256"),
        (("md5", "sha3_256", "sha512"), "sha512"),
    ],
    ids=str,
)
def test_a_target_is_named_by_its_sha256_or_else_by_its_sha512(
    simulator: Simulator, opened: Opened, algorithms: tuple[str, ...], named_by: str
) -> None:
    data = simulator.files[simulator.target_path("index.json")]
    simulator.use_hashes(*algorithms, named_by=named_by)
    trust = opened()
    trust.refresh()
    info = trust.target("baseline", "index.json")
    assert trust.download(info, 1 << 20) == data
    digest = hashlib.new(named_by, data).hexdigest()
    assert trust.hash_of(info) == (digest if named_by == "sha256" else f"sha512:{digest}")
    assert simulator.requests[-1] == f"targets/lists/baseline/{digest}.index.json"


@pytest.mark.parametrize("wrong", ["sha256", "sha512", "sha1", "sha3_512"])
def test_every_hash_that_is_signed_and_known_is_verified(
    simulator: Simulator, opened: Opened, wrong: str
) -> None:
    digest = {"sha256": "0" * 64, "sha512": "0" * 128}.get(wrong, "0" * 40)
    named_by = "sha512" if wrong != "sha512" else "sha256"
    algorithms = [a for a in ("sha256", "sha512") if a != wrong]
    simulator.use_hashes(*algorithms, named_by=named_by, also={wrong: digest})
    path = simulator.target_path("index.json")
    simulator.files[path] = next(
        data for name, data in simulator.files.items() if name.endswith(".index.json")
    )
    trust = opened()
    trust.refresh()
    with pytest.raises(VerificationError, match=r"Observed hash .* does not match"):
        trust.download(trust.target("baseline", "index.json"), 1 << 20)


@pytest.mark.parametrize("unknown", ["shake_128", "blake9", "sha256 "])
def test_a_hash_that_nobody_knows_is_passed_over(
    simulator: Simulator, opened: Opened, unknown: str
) -> None:
    simulator.use_hashes("sha512", named_by="sha512", also={unknown: "00"})
    trust = opened()
    trust.refresh()
    assert trust.download(trust.target("baseline", "index.json"), 1 << 20)


def test_a_version_that_was_pushed_far_ahead_is_recovered_by_new_keys(
    simulator: Simulator, opened: Opened
) -> None:
    honest = dict(simulator.files)
    simulator.edit("timestamp", lambda s: setattr(s, "version", 10_000))
    opened().refresh()
    simulator.files = dict(honest)
    simulator.edit("timestamp")
    with pytest.raises(VerificationError, match="timestamp version"):
        opened().refresh()
    signer = CryptoSigner.generate_ed25519()

    def rotate(root: Any) -> None:
        for keyid in list(root.roles["timestamp"].keyids):
            root.revoke_key(keyid, "timestamp")
        root.add_key(signer.public_key, "timestamp")

    simulator.edit("root", rotate)
    simulator.edit("timestamp", signers=[signer])
    opened().refresh()


def test_many_rotations_of_root_are_followed_once(simulator: Simulator, opened: Opened) -> None:
    for _ in range(40):
        simulator.edit("root")
    opened().refresh()
    simulator.requests.clear()
    opened().refresh()
    assert simulator.requests == ["metadata/42.root.json", "metadata/timestamp.json"]


@pytest.mark.parametrize("code", [403, 404])
def test_a_store_may_forbid_what_it_does_not_have(
    simulator: Simulator, opened: Opened, code: int
) -> None:
    """Object stores answer 403 for a missing root unless the client may list names."""
    simulator.faults["metadata/2.root.json"] = status(code)
    trust = opened()
    trust.refresh()
    assert trust.lists() == ["baseline"]
    for other in (401, 500):
        simulator.faults["metadata/2.root.json"] = status(other)
        with pytest.raises((AuthorisationError, UnreachableError), match=str(other)):
            opened().refresh()


def test_a_root_in_between_may_have_expired(simulator: Simulator, opened: Opened) -> None:
    simulator.expire("root")
    simulator.edit("root", lambda s: setattr(s, "expires", datetime(2100, 1, 1, tzinfo=UTC)))
    opened().refresh()


# Power loss


def test_metadata_and_its_names_are_synced(
    simulator: Simulator, opened: Opened, tmp_path: Path
) -> None:
    """python-tuf does not sync; if a timestamp got lost, an older timestamp would be accepted."""
    recorder = Recorder()
    with watched(recorder):
        trust = opened()
        trust.refresh()
    directory = tmp_path / "trust"
    history = directory / "root_history"
    renamed = max(n for n, (name, _) in enumerate(recorder.calls) if name == "replace")
    synced = {str(a): n for n, (name, a) in enumerate(recorder.calls) if name == "fsync"}
    names = {"root.json", "timestamp.json", "snapshot.json", "targets.json"}
    files = {directory / name for name in names} | {history / "1.root.json"}
    files = {path.resolve() for path in files}
    assert {path for path in directory.rglob("*.json") if not path.is_symlink()} == files
    for path in (*files, directory, history):
        assert synced[str(path)] > renamed, path


def test_the_metadata_of_a_list_is_synced_when_it_is_asked_for(
    opened: Opened, tmp_path: Path
) -> None:
    trust = opened()
    trust.refresh()
    recorder = Recorder()
    with watched(recorder):
        trust.target("baseline", "index.json")
        trust.make_durable()
    path = tmp_path / "trust" / "baseline.json"
    names = [name for name, _ in recorder.calls]
    assert "replace" in names
    after = recorder.calls[names.index("replace") + 1 :]
    assert ("fsync", str(path)) in after and ("fsync", str(path.parent)) in after
    files = open_files()
    trust.make_durable()
    assert open_files() == files
    assert after.index(("fsync", str(path))) < after.index(("fsync", str(path.parent)))


# Rules of this project beyond TUF


@pytest.mark.parametrize(
    ("list_name", "file_name"),
    [
        ("baseline", "../x"),
        ("baseline", ""),
        ("baseline", "a/b"),
        ("baseline", "%2e%2e"),
        ("baseline", "a\0"),
        ("..", "index.json"),
        ("a\ud800", "index.json"),
    ],
    ids=ascii,
)
def test_a_name_is_checked_before_any_request(
    simulator: Simulator, opened: Opened, list_name: str, file_name: str
) -> None:
    trust = opened()
    trust.refresh()
    simulator.requests.clear()
    with pytest.raises(VerificationError, match="name is not allowed") as caught:
        trust.target(list_name, file_name)
    assert caught.value.message.isprintable()
    assert simulator.requests == []


def test_a_file_longer_than_the_callers_cap_is_not_asked_for(
    simulator: Simulator, opened: Opened
) -> None:
    trust = opened()
    trust.refresh()
    info = trust.target("baseline", "index.json")
    simulator.requests.clear()
    with pytest.raises(VerificationError, match="more than 10"):
        trust.download(info, 10)
    assert simulator.requests == []


@pytest.mark.parametrize("root", [b"", b"{}", b"[", b'{"signed": {"_type": "root"}}'])
def test_a_pinned_root_that_is_none(simulator: Simulator, tmp_path: Path, root: bytes) -> None:
    with pytest.raises(VerificationError, match="provider main"):
        Trust(tmp_path / "t", URL, simulator, root, name="main", now=datetime.now(UTC))


def test_a_pinned_root_that_is_another_role(simulator: Simulator, tmp_path: Path) -> None:
    data = simulator.files["metadata/timestamp.json"]
    with pytest.raises(VerificationError, match="provider main"):
        Trust(tmp_path / "t", URL, simulator, data, name="main", now=datetime.now(UTC))


def test_a_directory_that_cannot_be_made(simulator: Simulator, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StateError, match="cannot make directory"):
        Trust(
            tmp_path / "file" / "t",
            URL,
            simulator,
            simulator.root,
            name="main",
            now=datetime.now(UTC),
        )


def test_a_directory_that_vanishes_meanwhile(
    simulator: Simulator, opened: Opened, tmp_path: Path
) -> None:
    trust = opened()
    (tmp_path / "trust").rename(tmp_path / "moved")
    with pytest.raises(StateError, match="metadata"):
        trust.refresh()
    (tmp_path / "moved").rename(tmp_path / "trust")
    (tmp_path / "trust" / "root_history" / "1.root.json").unlink()
    (tmp_path / "trust" / "root_history").rmdir()
    with pytest.raises(StateError, match="cannot sync"):
        trust.make_durable()


def test_temporary_files_of_killed_runs_go_and_metadata_stays(
    simulator: Simulator, opened: Opened, tmp_path: Path
) -> None:
    simulator.publish(csv(range(3)), list_name="tmp12345")
    trust = opened()
    trust.refresh()
    trust.target("tmp12345", "index.json")
    (tmp_path / "trust" / "tmpabcdefgh").write_bytes(b"half")
    simulator.requests.clear()
    trust = opened()
    trust.refresh()
    trust.target("tmp12345", "index.json")
    assert not (tmp_path / "trust" / "tmpabcdefgh").exists()
    assert len(simulator.requests) == 2


def test_errors_of_the_provider_reach_the_caller_as_what_they_are(
    simulator: Simulator, opened: Opened
) -> None:
    simulator.faults["metadata/timestamp.json"] = status(404)
    with pytest.raises(UnreachableError, match="404"):
        opened().refresh()


def test_an_error_of_python_tuf_alone_is_translated(simulator: Simulator, tmp_path: Path) -> None:
    class Odd:
        error: Exception = RepositoryError()

        def get(self, url: str, max_bytes: int, *, expected_bytes: int | None = None) -> bytes:
            raise self.error

    source = Odd()
    now = datetime.now(UTC)
    trust = Trust(tmp_path / "t", URL, source, simulator.root, name="main", now=now)
    source.error = RepositoryError("odd \x1b[2J" + "x" * 1000)
    with pytest.raises(VerificationError, match=r"odd \\x1b\[2J") as caught:
        trust.refresh()
    assert len(caught.value.message) < 300
    source.error = DownloadLengthMismatchError("odd length")
    with pytest.raises(VerificationError, match="odd length"):
        trust.refresh()
    trust = Trust(tmp_path / "u", URL, source, simulator.root, name="main", now=now)
    source.error = DownloadHTTPError("odd", 500)
    with pytest.raises(UnreachableError, match="odd"):
        trust.refresh()


@pytest.mark.parametrize(
    "error", [RuntimeError("odd"), ValueError("odd"), TypeError("odd"), KeyError("odd")], ids=repr
)
def test_unexpected_errors_of_python_tuf_are_translated(
    simulator: Simulator, tmp_path: Path, error: Exception
) -> None:
    """python-tuf and its libraries raise any errors; none must look like a bug of hashclient."""

    class Odd:
        def get(self, url: str, max_bytes: int, *, expected_bytes: int | None = None) -> bytes:
            raise error

    now = datetime.now(UTC)
    trust = Trust(tmp_path / "t", URL, Odd(), simulator.root, name="main", now=now)
    with pytest.raises(VerificationError, match=r"provider main: metadata is malformed: .?odd"):
        trust.refresh()
