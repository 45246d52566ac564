"""`hashclient scan s3://…`: objects in buckets of a server on loopback."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote_plus, unquote

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from pyrage import x25519

from fixtures.buckets import (
    ACCESS_KEY,
    SECRET_KEY,
    Answer,
    Bucket,
    Request,
    Site,
    blobs,
    error,
    is_listing,
    listing,
)
from hashclient.audit.reading import read
from hashclient.core.objecturi import parse_uri
from hashclient.matches.verify import verify_matches
from hashclient.objects.others import PAGE_OBJECTS
from hashclient.scan.objects.objects import make_token, read_token
from tests.kit import ROOT, Run, arguments, call, csv_of, environment, make_state

LISTED = b"listed one"
#: Content of the same length that is not listed.
OTHER = LISTED[::-1]
BIG = bytes(range(256)) * 9_000


class Commands:
    """One process that runs many commands, because starting a process takes longest.

    Threads of obstore stay in this process, and out of the processes that other tests fork.
    """

    CODE = """
import json, os, sys
from tests.kit import call
for line in sys.stdin:
    args, env = json.loads(line)
    before = dict(os.environ)
    os.environ.update(env)
    result = call(*args)
    os.environ.clear()
    os.environ.update(before)
    print(json.dumps([result.code, result.out, result.err]), flush=True)
"""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", self.CODE],
            env=environment(),
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def run(self, args: Sequence[object], env: Mapping[str, str]) -> Run:
        pipes = self._process
        assert pipes.stdin is not None
        assert pipes.stdout is not None
        pipes.stdin.write(json.dumps([[str(arg) for arg in args], env]) + "\n")
        pipes.stdin.flush()
        return Run(*json.loads(pipes.stdout.readline()))

    def close(self) -> None:
        self._process.communicate()


@pytest.fixture(scope="module")
def commands() -> Iterator[Commands]:
    commands = Commands()
    yield commands
    commands.close()


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    site = Site()
    yield site
    site.close()


@pytest.fixture(autouse=True)
def _reset_answer(site: Site) -> Iterator[None]:
    yield
    site.answer = lambda _request: None


@pytest.fixture(scope="module")
def fresh_state(tmp_path_factory: pytest.TempPathFactory) -> Path:
    entries = {"base": csv_of({"e-1": LISTED, "e-2": BIG})}
    return make_state(tmp_path_factory.mktemp("site"), entries)


@pytest.fixture
def state(fresh_state: Path, tmp_path: Path) -> Path:
    return shutil.copytree(fresh_state, tmp_path / "state")


Scan = Callable[..., Run]


@pytest.fixture
def scan(commands: Commands, site: Site, state: Path) -> Scan:
    """Return a function that runs a scan and checks that the output has no secret."""
    return lambda *args, **env: _scan(commands, site, state, args, env)


def _scan(
    commands: Commands, site: Site, state: Path, args: Sequence[object], env: Mapping[str, str]
) -> Run:
    words = ("--state-dir", state, "scan", "--format", "jsonl", "--show-all", *args)
    result = commands.run(words, {**site.environment, **env})
    told = result.out + result.err
    if (log := state / "audit" / "log.jsonl").exists():
        told += log.read_text()
    for secret in (SECRET_KEY, ACCESS_KEY, hashlib.md5(LISTED).hexdigest()):
        assert secret not in told
    return result


def reasons(result: Run) -> dict[str, str]:
    return {line["path"]: line["reason"] for line in result.lines if line["type"] == "unread"}


def evidence(result: Run) -> dict[str, str]:
    return {line["path"]: line["evidence"] for line in result.lines if "evidence" in line}


def trusting(state: Path, bucket: str) -> None:
    (state / "config.toml").write_text(f'[objects."{bucket}"]\ntrust_etag = true\n')


@pytest.mark.slow
def test_objects_are_listed_read_and_judged(site: Site, state: Path, scan: Scan) -> None:
    bucket = site.bucket(**{"a/one": LISTED, "a/two": OTHER, "b": b"short", "c/big": BIG})
    result = scan(f"{bucket.uri}/")
    assert result.outcomes == {
        f"{bucket.uri}/a/one": "match",
        f"{bucket.uri}/a/two": "clean",
        f"{bucket.uri}/b": "clean",
        f"{bucket.uri}/c/big": "match",
    }
    assert evidence(result) == {
        f"{bucket.uri}/a/one": "read",
        f"{bucket.uri}/a/two": "read",
        f"{bucket.uri}/b": "size",
        f"{bucket.uri}/c/big": "read",
    }
    summary = result.summary
    assert (result.code, summary["files_read"], summary["ruled_out_by_size"]) == (10, 3, 1)
    assert summary["by_store_digest"] == 0
    assert (state / "audit" / "log.jsonl").read_text().count(f"{bucket.uri}/a/one") == 1
    verify_matches(state)


@pytest.mark.slow
def test_a_uri_is_an_object_and_what_is_below_it(site: Site, state: Path, scan: Scan) -> None:
    bucket = site.bucket(**{"a": b"x", "a/b": b"xx", "ab": b"xxx", "a/b/c": b"x", "é ?#%": b"x"})

    def found(*args: str) -> list[str]:
        return sorted(scan(*args).outcomes)

    uri = bucket.uri
    assert found(f"{uri}/a") == [f"{uri}/a", f"{uri}/a/b", f"{uri}/a/b/c"]
    assert found(f"{uri}/a/") == [f"{uri}/a/b", f"{uri}/a/b/c"]
    assert found(f"{uri}/é %3F%23%25", f"{uri}/ab") == [f"{uri}/ab", f"{uri}/é %3F%23%25"]
    several = scan(f"{uri}/a/", f"{uri}/ab", uri, f"{uri}/ab")  # each object is checked once
    assert (len(several.outcomes), several.summary["inputs"]) == (5, 5)


@pytest.mark.slow
def test_without_an_object_there_is_nothing_to_check(site: Site, state: Path, scan: Scan) -> None:
    bucket = site.bucket()
    assert scan(bucket.uri).code == 3
    assert scan(f"{bucket.uri}/none").code == 3


@pytest.mark.slow
def test_keys_that_are_no_paths_are_listed_and_read(site: Site, state: Path, scan: Scan) -> None:
    keys = ["/lead", "a", "a//b", "dir/", "up/../x", "x/./y", "z"]
    bucket = site.bucket(**dict.fromkeys(keys, LISTED))
    result = scan(bucket.uri)
    assert result.outcomes == {f"{bucket.uri}/{key}": "match" for key in keys}, result.err
    for part in ("/lead", "a//", "up/../", "x/./y"):
        below = {f"{bucket.uri}/{key}": "match" for key in keys if key.startswith(part)}
        assert scan("--no-members", f"{bucket.uri}/{part}").outcomes == below
    without = site.bucket(**dict.fromkeys(keys[1:], LISTED))
    result = scan(without.uri, "--no-members")
    assert result.outcomes == {f"{without.uri}/{key}": "match" for key in keys[1:]}, result.err


@pytest.mark.slow
def test_a_slash_at_the_end_of_a_key_is_found_again(site: Site, state: Path, scan: Scan) -> None:
    bucket = site.bucket(**{"dir/": LISTED, "dir/x": OTHER})
    assert scan(bucket.uri).outcomes == {
        f"{bucket.uri}/dir/": "match",
        f"{bucket.uri}/dir/x": "clean",
    }


@pytest.mark.slow
def test_without_reading_nothing_is_read(site: Site, state: Path, scan: Scan) -> None:
    bucket = site.bucket(one=LISTED, two=OTHER, three=b"3")
    bucket.put_parts("parts", LISTED)
    result = scan("--no-read", bucket.uri)
    assert reasons(result) == {
        f"{bucket.uri}/one": "--no-read: its etag is that of an entry, and only its content"
        " could tell",
        f"{bucket.uri}/two": "--no-read: the digest that its store gives is not trusted"
        " (trust_etag)",
        f"{bucket.uri}/parts": "--no-read: its store gives no digest of it",
    }
    assert (result.code, bucket.reads()) == (3, [])
    assert result.outcomes[f"{bucket.uri}/three"] == "clean"
    assert result.summary["opens_containers"] is False


@pytest.mark.slow
def test_etags_that_are_trusted_decide(site: Site, state: Path, scan: Scan) -> None:
    others = {f"n{n}": b"%010d" % n for n in range(20)}
    bucket = site.bucket(one=LISTED, **others)
    trusting(state, bucket.uri)
    result = scan("--no-members", bucket.uri)
    summary = result.summary
    # A listed object is read before it is called a match. To check the ETags of a store, the first
    # object that is not listed is read, and then one in a thousand.
    assert result.outcomes[f"{bucket.uri}/one"] == "match"
    were_read = set(bucket.reads())
    assert were_read >= {"n0", "one"}
    assert (summary["clean"], result.code) == (20, 10)
    assert summary["by_store_digest"] == 20 - len(were_read - {"one"})
    assert summary["objects"] == summary["inputs"] == 21
    (end,) = read(state / "audit", event="scan-end")
    assert end.data["objects"] == 21
    assert set(evidence(result).values()) == {"read", "etag"}
    without = scan("--no-read", bucket.uri)
    assert without.summary["by_store_digest"] == 20
    assert list(reasons(without)) == [f"{bucket.uri}/one"]


@pytest.mark.slow
def test_an_etag_of_another_content_ends_the_trust(site: Site, state: Path, scan: Scan) -> None:
    """ETags of an encrypted bucket look like MD5s, but are not."""
    bucket = site.bucket(**{f"n{n}": b"%010d" % n for n in range(5)})
    trusting(state, bucket.uri)
    rows = [(f"n{n}", 10, f"{n}" * 32) for n in range(5)]

    def lie(request: Request) -> Answer:
        if is_listing(request):
            return listing(rows)
        key = request[1].rpartition("/")[2]
        if request[0] != "GET" or not key.startswith("n"):
            return None
        headers = {"ETag": f'"{key[1:] * 32}"', "Content-Range": "bytes 0-9/10"}
        headers["Last-Modified"] = "Thu, 01 Jan 2026 00:00:00 GMT"
        return "206 Partial Content", headers, b"%010d" % int(key[1:])

    site.answer = lie
    result = scan("--no-members", bucket.uri)
    text = "its etag was taken for its md5, and the etag of another object is no md5"
    assert reasons(result) == {f"{bucket.uri}/n{n}": text for n in range(1, 5)}
    assert (result.summary["by_store_digest"], result.code) == (0, 3)
    assert evidence(result) == {f"{bucket.uri}/n0": "read"}


@pytest.mark.slow
def test_an_unchanged_object_is_not_read_again(site: Site, state: Path, scan: Scan) -> None:
    bucket = site.bucket(one=LISTED, two=OTHER, three=b"3")
    scan(bucket.uri)
    site.requests.clear()
    again = scan(bucket.uri)
    assert (set(bucket.reads()), again.code) == ({"one"}, 10)  # each listed object is read again
    assert (again.summary["known_unchanged"], again.summary["believed_unchanged"]) == (2, 2)
    assert evidence(again)[f"{bucket.uri}/two"] == "known"
    bucket.put("two", LISTED)
    assert scan(bucket.uri).outcomes[f"{bucket.uri}/two"] == "match"
    site.requests.clear()
    scan("--no-inventory", bucket.uri)
    assert set(bucket.reads()) == {"one", "two", "three"}


@pytest.mark.slow
def test_every_version_is_checked(site: Site, state: Path, scan: Scan) -> None:
    bucket = site.bucket()
    bucket.keep_versions()
    first = bucket.put("a", LISTED)
    second = bucket.put("a", OTHER)
    bucket.delete("a")
    third = bucket.put("ab", LISTED)
    uri = bucket.uri
    assert scan(uri).outcomes == {f"{uri}/ab?versionId={third}": "match"}
    result = scan("--all-versions", uri)
    assert result.outcomes == {
        f"{uri}/a?versionId={first}": "match",
        f"{uri}/a?versionId={second}": "clean",
        f"{uri}/ab?versionId={third}": "match",
    }
    assert len(scan("--all-versions", f"{uri}/a").outcomes) == 2
    one = scan(f"{uri}/a?versionId={first}")
    assert (list(one.outcomes.values()), one.code) == (["match"], 10)


@pytest.mark.slow
def test_members_of_containers_are_checked(site: Site, state: Path, scan: Scan) -> None:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("in/a.jpg", LISTED)
        archive.writestr("b", b"b")
    behind = b"\x7fELF" + bytes(70_000) + packed.getvalue()
    bucket = site.bucket(**{"x.zip": packed.getvalue(), "program": behind, "c": bytes(50_000)})
    result = scan(bucket.uri)
    assert {path for path, kind in result.outcomes.items() if kind == "match"} == {
        f"{bucket.uri}/x.zip!/in/a.jpg",
        f"{bucket.uri}/program!/in/a.jpg",
    }
    assert (result.code, result.summary["members"]) == (10, 4)
    closed = scan("--no-members", bucket.uri)
    assert (closed.code, closed.summary["files_read"]) == (0, 0)


@pytest.mark.sampled
@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (error("403 Forbidden", "AccessDenied"), "permission denied"),
        (
            error("403 Forbidden", "InvalidObjectState"),
            "is in an archive storage class: it has to be restored before it can be read",
        ),
        (error("404 Not Found", "NoSuchKey"), "vanished after it was listed"),
        (error("412 Precondition Failed", "PreconditionFailed"), "changed after it was listed"),
        (error("400 Bad Request", LISTED.hex()), "the store refused: it answered 400"),
    ],
)
def test_an_object_that_cannot_be_read_is_unread_alone(
    site: Site, state: Path, scan: Scan, answer: Answer, reason: str
) -> None:
    bucket = site.bucket(one=LISTED, two=LISTED)
    site.answer = lambda request: answer if request[1].endswith("/two") else None
    result = scan(bucket.uri)
    assert reasons(result) == {f"{bucket.uri}/two": reason}
    assert (result.outcomes[f"{bucket.uri}/one"], result.code) == ("match", 11)


@pytest.mark.slow
def test_an_object_that_changes_between_listing_and_reading_is_unread(
    site: Site, state: Path, scan: Scan
) -> None:
    bucket = site.bucket(one=LISTED)

    def change(request: Request) -> Answer:
        if request[1].endswith("/one") and request[0] == "GET":
            site.answer = lambda _request: None
            bucket.put("one", OTHER)
        return None

    site.answer = change
    result = scan(bucket.uri)
    assert reasons(result) == {f"{bucket.uri}/one": "changed after it was listed"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (None, "no such bucket"),
        (error("403 Forbidden", "AccessDenied"), "permission denied"),
        (error("400 Bad Request", "ExpiredToken"), "the credentials have expired"),
        (error("403 Forbidden", "InvalidAccessKeyId"), "the credentials are not accepted"),
    ],
)
def test_a_bucket_that_cannot_be_listed_is_unread(
    site: Site, state: Path, scan: Scan, answer: Answer, reason: str
) -> None:
    site.answer = lambda _request: answer
    result = scan("s3://no-such-bucket/x/")
    assert reasons(result) == {"s3://no-such-bucket/x/": f"the listing ended early: {reason}"}
    assert result.code == 3


def test_without_credentials_a_bucket_is_unread(site: Site, state: Path, scan: Scan) -> None:
    none = dict.fromkeys(("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"), "")
    result = scan("s3://bucket", AWS_EC2_METADATA_DISABLED="true", **none)
    assert reasons(result) == {"s3://bucket/": "the listing ended early: no credentials were found"}


@pytest.mark.slow
def test_a_listing_that_ended_goes_on_with_a_token(site: Site, state: Path, scan: Scan) -> None:
    bucket = site.bucket(**{f"{n}": LISTED for n in range(4)})
    etag = hashlib.md5(LISTED).hexdigest()

    def pages(request: Request) -> Answer:
        if not is_listing(request) or "start-after" in request[2]:
            return None
        if "continuation-token" in request[2]:
            return error("400 Bad Request", "ExpiredToken")
        return listing([(f"{n}", 10, etag) for n in range(2)], more="next")

    site.answer = pages
    first = scan(bucket.uri, "--no-members")
    assert list(first.outcomes.values()).count("match") == 2, first.out
    (reason,) = reasons(first).values()
    assert reason.startswith("the listing ended early: the credentials have expired; --resume ")
    assert first.code == 11
    token = reason.split()[-3]
    second = scan("--resume", token, bucket.uri)
    assert second.outcomes == {f"{bucket.uri}/2": "match", f"{bucket.uri}/3": "match"}
    wrong = scan("--resume", token, f"{bucket.uri}/x")
    assert (wrong.code, wrong.out) == (2, "")
    assert scan("--resume", "e30", bucket.uri).code == 2


@pytest.mark.slow
def test_a_store_that_repeats_a_page_is_left(site: Site, state: Path, scan: Scan) -> None:
    bucket = site.bucket()
    rows = [(f"{n}", 1, "x") for n in range(1000, 2500)]
    site.answer = lambda request: listing(rows, more="again") if is_listing(request) else None
    result = scan("--no-members", bucket.uri)
    (reason,) = reasons(result).values()
    assert reason.startswith("the listing ended early: the store repeats keys that it has ")
    assert result.code == 3


@pytest.mark.slow
def test_an_interrupted_scan_says_where_to_go_on(site: Site, state: Path) -> None:
    bucket = site.bucket(z=OTHER)
    words = arguments("--state-dir", state, "scan", "--no-members", bucket.uri)
    has_ended = threading.Event()
    first = [(f"a{n:04}", 1, "x") for n in range(1_000)]

    def hang(request: Request) -> Answer:
        if is_listing(request):
            if "continuation-token" in request[2]:
                return listing([("z", 10, hashlib.md5(OTHER).hexdigest())])
            return listing(first, more="next")
        if request[1].endswith("/z"):
            process.send_signal(signal.SIGINT)
            has_ended.wait(60)
        return None

    site.answer = hang
    with subprocess.Popen(
        words, env=environment(**site.environment), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        out, err = process.communicate(timeout=60)
        has_ended.set()
    assert process.returncode == 130, (out, err)
    assert b"Traceback" not in err
    token = err.partition(b"--resume ")[2].partition(b",")[0].decode()
    assert read_token(token, parse_uri(bucket.uri)) == "a0999"


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("--no-read", "/srv"), "--no-read: there are no objects to check"),
        (("--resume", "x", "s3://a-bucket/", "/srv"), "--resume: the command also has files"),
        (("--exclude", "x", "s3://a-bucket/"), "--exclude is not for objects"),
        (("s3://a-bucket/100%",), "a % in a URI is not part of an escape: s3://a-bucket/100%25"),
        (("s3://a-bucket/x?y",), "not the URI of an object: s3://a-bucket/x?…"),
        (("s3://key:secret@bucket/x",), "not the URI of a bucket: s3://…@bucket/x"),
        (("az://c1/x?sv=1&sig=secret",), "not the URI of an object: az://c1/x?…"),
        (("s3:///x",), "not the URI of a bucket: s3:///x"),
        (("--all-versions", "gs://a-bucket/x"), "versions are listed of S3 only: gs://a-bucket/x"),
    ],
)
def test_impossible_options_and_uris_are_refused(
    site: Site, state: Path, scan: Scan, args: tuple[str, ...], message: str
) -> None:
    result = scan(*args)
    assert (result.code, result.out) == (2, "")
    assert result.err.startswith(f"hashclient: error: {message}"), result.err


def test_files_and_objects_are_checked_together(
    site: Site, state: Path, scan: Scan, tmp_path: Path
) -> None:
    bucket = site.bucket(one=LISTED)
    file = tmp_path / "file"
    file.write_bytes(LISTED)
    result = scan(file, bucket.uri)
    assert result.outcomes == {str(file): "match", f"{bucket.uri}/one": "match"}
    assert len({line["id"] for line in result.lines[:-1]}) == 2


@pytest.fixture
def sealing(state: Path, tmp_path: Path) -> Path:
    """Return the key that opens isolated objects."""
    key = tmp_path / "officer.key"
    identity = x25519.Identity.generate()
    key.write_text(f"{identity}\n")
    key.chmod(0o600)
    recipient = f'[quarantine]\nrecipients = ["{identity.to_public()}"]\n'
    (state / "config.toml").write_text(recipient)
    return key


def details(result: Run) -> list[str]:
    return [acted["detail"] for line in result.lines for acted in line.get("actions", ())]


@pytest.mark.slow
def test_exactly_the_version_that_matched_is_deleted(
    site: Site, state: Path, scan: Scan, sealing: Path, tmp_path: Path, commands: Commands
) -> None:
    bucket = site.bucket()
    bucket.keep_versions()
    listed = bucket.put("a b", LISTED)
    other = bucket.put("a b", OTHER)
    result = scan("--quarantine", "--all-versions", bucket.uri)
    assert (details(result), result.code) == (["quarantined"], 10)
    assert bucket.versions("a b") == [other]
    match = result.lines[0]["id"] if result.lines[0]["type"] == "match" else result.lines[1]["id"]
    uri = f"{bucket.uri}/a b?versionId={listed}"
    item = json.loads((state / "quarantine" / match / "item.json").read_bytes())
    assert item["path"] == uri
    restore = ("quarantine", "restore", match, "--identity", sealing, "--force", "--reason", "t")
    words = ("--state-dir", state, *restore)
    refused = commands.run(words, site.environment)
    assert (refused.code, "came from a bucket" in refused.err) == (2, True)
    back = tmp_path / "back"
    assert commands.run((*words, "--output", back), site.environment).code == 0
    assert back.read_bytes() == LISTED


@pytest.mark.slow
def test_without_versions_nothing_is_deleted_but_on_a_condition(
    site: Site, state: Path, scan: Scan, sealing: Path
) -> None:
    bucket = site.bucket(one=LISTED)
    result = scan("--quarantine", bucket.uri)
    text = "sealed, but still in place: its store keeps no versions, and cannot delete"
    assert details(result) == [f"{text} exactly this content"]
    assert (bucket.keys, result.code) == (["one"], 11)
    with (state / "config.toml").open("a") as config:
        config.write(f'[objects."{bucket.uri}"]\nconditional_delete = true\n')
    result = scan("--quarantine", bucket.uri)
    assert (details(result), bucket.keys, result.code) == (["quarantined"], [], 10)


@pytest.mark.slow
def test_a_legal_hold_may_be_what_is_wanted(
    site: Site, state: Path, scan: Scan, sealing: Path
) -> None:
    bucket = site.bucket()
    bucket.keep_versions()
    site.client.put_object_lock_configuration(
        Bucket=bucket.name, ObjectLockConfiguration={"ObjectLockEnabled": "Enabled"}
    )
    bucket.put("one", LISTED)
    with (state / "config.toml").open("a") as config:
        config.write(f'[objects."{bucket.uri}"]\nisolate = "hold"\n')
    result = scan("--quarantine", bucket.uri)
    text = "sealed, and put on legal hold and left in place, as configured"
    assert (details(result), bucket.keys, result.code) == ([text], ["one"], 10)
    where = {"Bucket": bucket.name, "Key": "one"}
    hold = site.client.get_object_legal_hold(**where)["LegalHold"]
    assert hold == {"Status": "ON"}


@pytest.mark.slow
def test_a_report_has_the_uri_and_the_object_that_stays(
    site: Site, state: Path, scan: Scan, sealing: Path, tmp_path: Path, commands: Commands
) -> None:
    bucket = site.bucket()
    bucket.keep_versions()
    version = bucket.put("one", LISTED)
    public = (state / "config.toml").read_text().split('"')[1]
    desk = tmp_path / "desk"
    desk.mkdir()
    with (state / "config.toml").open("a") as config:
        config.write(
            '[report]\norganisation = "o"\ncontact = "c"\n[report.to.desk]\nkind = "package"\n'
            f'directory = "{desk}"\nrecipients = ["{public}"]\n'
        )
    match = scan(bucket.uri).lines[0]["id"]
    for words in (("prepare", "--seal-evidence", match), ("submit", "--all")):
        done = commands.run(("--state-dir", state, "report", *words), site.environment)
        assert done.code == 0, done.err
    (document,) = (state / "reports").glob("r-*/document.json")
    (reported,) = json.loads(document.read_bytes())["matches"]
    assert reported["path"] == f"{bucket.uri}/one?versionId={version}"
    assert reported["evidence"]["name"] == f"evidence/{match}.age"


def inventory(site: Site, bucket: Bucket, kind: str, rows: list[dict[str, Any]]) -> str:
    """Publish a report in the form of S3 Inventory, and return the URI of its manifest."""
    reports = site.bucket()
    out = io.BytesIO()
    names = list(rows[0])
    if kind == "CSV":
        lines = [",".join(f'"{row[name]}"' for name in names) for row in rows]
        out.write(gzip.compress("\n".join([*lines, ""]).encode()))
    else:
        table = pa.Table.from_pylist(rows)
        pq.write_table(table, out)
    reports.put("data/1", out.getvalue())
    manifest = {
        "sourceBucket": bucket.name,
        "destinationBucket": f"arn:aws:s3:::{reports.name}",
        "version": "2016-11-30",
        "fileFormat": kind,
        "fileSchema": ", ".join(names),
        "files": [
            {
                "key": "data/1",
                "size": len(out.getvalue()),
                "MD5checksum": hashlib.md5(out.getvalue()).hexdigest(),
            }
        ],
    }
    reports.put("2026/manifest.json", json.dumps(manifest).encode())
    return f"{reports.uri}/2026/manifest.json"


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["CSV", "Parquet"])
def test_a_report_of_s3_inventory_takes_the_place_of_a_listing(
    site: Site, state: Path, scan: Scan, kind: str
) -> None:
    bucket = site.bucket()
    bucket.keep_versions()
    one, two = bucket.put("a b+c", LISTED), bucket.put("x/y", OTHER)
    etag = hashlib.md5(LISTED).hexdigest()

    def row(key: str, version: str | None, tag: str, *, latest: bool = True) -> dict[str, Any]:
        name = {"CSV": ("Bucket", "Key", "VersionId", "IsLatest", "IsDeleteMarker", "Size", "ETag")}
        fields = name.get(
            kind,
            ("bucket", "key", "version_id", "is_latest", "is_delete_marker", "size", "e_tag"),
        )
        is_csv = kind == "CSV"
        flag = str(latest).lower() if is_csv else latest
        shown = quote_plus(key) if is_csv else key
        size = "10" if is_csv else 10
        values = (bucket.name, shown, version, flag, "false" if is_csv else False, size, tag)
        return dict(zip(fields, values, strict=True))

    other = hashlib.md5(OTHER).hexdigest()
    rows = [
        row("a b+c", one, etag),
        row("x/y", two, other),
        row("x/y", "0" * 32, other, latest=False),
    ]
    manifest = inventory(site, bucket, kind, rows)
    site.requests.clear()
    result = scan("--inventory-report", manifest)
    assert result.outcomes == {
        f"{bucket.uri}/a b+c?versionId={one}": "match",
        f"{bucket.uri}/x/y?versionId={two}": "clean",
    }, result.err
    assert not any("list-type" in query for _, _, query in site.requests)
    every = scan("--inventory-report", manifest, "--all-versions")
    gone = f"{bucket.uri}/x/y?versionId={'0' * 32}"
    assert reasons(every)[gone] in {
        "vanished after it was listed",
        "the store refused: it answered 400",
    }


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_any_table_of_keys_and_sizes_will_do(
    site: Site, state: Path, scan: Scan, tmp_path: Path, kind: str
) -> None:
    bucket = site.bucket(**{"one": LISTED, "100%": OTHER, "other": LISTED})
    table = pa.table({"key": ["one", "100%", "none", "long"], "size": [10, 10, 10, None]})
    path = tmp_path / f"rows.{kind}"
    if kind == "csv":
        pyarrow.csv.write_csv(table, path)
    else:
        pq.write_table(table, path)
    result = scan("--inventory-report", path, f"{bucket.uri}/")
    assert result.outcomes == {
        f"{bucket.uri}/one": "match",
        f"{bucket.uri}/100%25": "clean",
        f"{bucket.uri}/none": "unread",
        f"{bucket.uri}/long": "unread",
    }, result.err
    assert reasons(result)[f"{bucket.uri}/long"] == "the report does not say how long it is"
    assert scan("--inventory-report", path).code == 2
    # The manifest may also name a table in a bucket.
    reports = site.bucket(**{path.name: path.read_bytes()})
    again = scan("--inventory-report", f"{reports.uri}/{path.name}", f"{bucket.uri}/")
    assert again.outcomes == result.outcomes


def test_a_report_that_is_a_pipe_keeps_nobody_waiting(
    site: Site, state: Path, scan: Scan, tmp_path: Path
) -> None:
    for name in ("manifest.json", "rows.csv"):
        os.mkfifo(tmp_path / name)
    assert scan("--inventory-report", tmp_path / "manifest.json").code == 2
    assert scan("--inventory-report", tmp_path / "rows.csv", "s3://a-bucket/").code == 3


def table_without_rows(*names: str) -> bytes:
    """Return a Parquet file that has these columns and no rows."""
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({name: pa.nulls(0, pa.string()) for name in names}), sink)
    return sink.getvalue().to_pybytes()  # type: ignore[no-any-return]


@pytest.mark.parametrize("data", [b"key,size\n", table_without_rows("Key", "Size")])
def test_a_report_without_objects_is_nothing_to_check(
    site: Site, state: Path, scan: Scan, tmp_path: Path, data: bytes
) -> None:
    path = tmp_path / "rows"
    path.write_bytes(data)
    result = scan("--inventory-report", path, "s3://some-bucket/")
    assert (result.code, reasons(result)) == (3, {})


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"PAR1 and no more", "damaged"),
        (b"name,length\na,1\n", "it has no columns key and size"),
        (b"a text of one line\n", "it has no columns key and size"),
        (table_without_rows("name", "length"), "it has no columns key and size"),
        (b'key,size\na,"1\nb', "damaged"),
        (b"key,size\na,many\n", "damaged"),
        (b"bucket,key,size\nelsewhere,a,1\n", "it has rows of another bucket"),
    ],
)
def test_a_report_that_is_none_is_unread(
    site: Site, state: Path, scan: Scan, tmp_path: Path, data: bytes, reason: str
) -> None:
    path = tmp_path / "rows"
    path.write_bytes(data)
    result = scan("--inventory-report", path, "s3://some-bucket/")
    why = f"the listing ended early: the report cannot be read: {reason}"
    assert reasons(result) == {"s3://some-bucket/": why}
    assert result.code == 3


@pytest.mark.slow
def test_a_manifest_that_is_none_is_refused(
    site: Site, state: Path, scan: Scan, tmp_path: Path
) -> None:
    bucket = site.bucket(**{"manifest.json": b"{}"})
    path = tmp_path / "manifest.json"
    assert scan("--inventory-report", path).code == 2
    path.write_bytes(b"[" * 100_000)
    assert scan("--inventory-report", path).code == 2
    result = scan("--inventory-report", f"{bucket.uri}/manifest.json")
    assert (result.code, result.out) == (2, "")
    assert "it is no manifest of S3 Inventory" in result.err


@pytest.mark.parametrize("length", [5, 15])
def test_an_object_of_another_length_is_unread(
    site: Site, state: Path, scan: Scan, length: int
) -> None:
    bucket = site.bucket(one=LISTED)
    headers = {"ETag": f'"{hashlib.md5(LISTED).hexdigest()}"', "Content-Range": "bytes 0-9/10"}
    headers["Last-Modified"] = "Thu, 01 Jan 2026 00:00:00 GMT"
    answer = "206 Partial Content", headers, (LISTED * 2)[:length]
    site.answer = lambda request: answer if request[1].endswith("/one") else None
    result = scan(bucket.uri)
    assert list(reasons(result)) == [f"{bucket.uri}/one"]
    assert result.code == 3


@pytest.mark.slow
def test_a_file_that_is_not_what_its_manifest_says_ends_the_report(
    site: Site, state: Path, scan: Scan
) -> None:
    bucket = site.bucket(one=LISTED)
    rows = [{"bucket": bucket.name, "key": "one", "size": 10}]
    manifest = inventory(site, bucket, "Parquet", rows)
    name = manifest.split("/")[2]
    site.client.put_object(Bucket=name, Key="data/1", Body=b"PAR1 another one PAR1")
    result = scan("--inventory-report", manifest)
    (reason,) = reasons(result).values()
    assert reason.startswith("the listing ended early: the report cannot be read: ")
    assert result.code == 3


def test_a_bucket_of_google_is_scanned(site: Site, state: Path, scan: Scan) -> None:
    """The client is Google's, and the server speaks the part that both protocols share."""
    name = "bucketofgoogle"  # the server does not decode an escape in the name of a bucket
    site.client.create_bucket(Bucket=name)
    for key, data in {"one": LISTED, "two": OTHER}.items():
        site.client.put_object(Bucket=name, Key=key, Body=data, ACL="public-read")
    config = f'[objects."gs://{name}"]\ntrust_etag = true\n'
    (state / "config.toml").write_text(config)
    env = {"GOOGLE_BASE_URL": site.url, "GOOGLE_SKIP_SIGNATURE": "true"}
    result = scan("--no-read", f"gs://{name}/", **env)
    assert evidence(result) == {f"gs://{name}/two": "md5Hash"}
    assert reasons(result)[f"gs://{name}/one"].startswith("--no-read: its md5Hash is that of an")
    assert scan(f"gs://{name}/", **env).outcomes == {
        f"gs://{name}/one": "match",
        f"gs://{name}/two": "clean",
    }


def test_a_container_of_azure_is_scanned(site: Site, state: Path, scan: Scan) -> None:
    def azure(request: Request) -> Answer:
        if "comp=list" in request[2]:
            return blobs([(name, 10, f"0x{name}") for name in ("one", "two")])
        name = request[1].rpartition("/")[2]
        headers = {"ETag": f"0x{name}", "Last-Modified": "Thu, 01 Jan 2026 00:00:00 GMT"}
        return "200 OK", headers, LISTED if name == "one" else OTHER

    site.answer = azure
    env = {
        "AZURE_STORAGE_ENDPOINT": site.url,
        "AZURE_STORAGE_ACCOUNT_NAME": "account",
        "AZURE_SKIP_SIGNATURE": "true",
    }
    assert scan("az://container/", **env).outcomes == {
        "az://container/one": "match",
        "az://container/two": "clean",
    }
    result = scan("--no-read", "az://container/", **env)
    assert set(reasons(result).values()) == {"--no-read: its store gives no digest of it"}


@pytest.mark.slow
def test_objects_come_in_order_when_that_is_asked_for(site: Site, state: Path, scan: Scan) -> None:
    bucket = site.bucket(b=LISTED, a=OTHER, c=b"c")
    result = scan("--sort", bucket.uri)
    paths = [line["path"] for line in result.lines[:-1]]
    assert paths == [f"{bucket.uri}/{key}" for key in "abc"]
    assert [line["evidence"] for line in result.lines[:-1]] == ["read", "read", "size"]


@pytest.mark.slow
def test_a_large_archive_waits_for_room(site: Site, state: Path, scan: Scan) -> None:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("filling", os.urandom(2 << 20))
        archive.writestr("a.jpg", LISTED)
    large = {f"{n}.zip": packed.getvalue() for n in range(4)}
    bucket = site.bucket(**large, filling=bytes(3 << 20))
    result = scan(bucket.uri)
    found = {path for path, kind in result.outcomes.items() if kind == "match"}
    assert found == {f"{bucket.uri}/{name}!/a.jpg" for name in large}
    assert (result.code, result.summary["members"]) == (10, 8)


def test_without_the_libraries_the_extra_is_named(
    state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "obstore", None)
    result = call("--state-dir", state, "scan", "s3://a-bucket/")
    assert (result.code, result.out) == (2, "")
    assert "object stores need obstore, which is not installed" in result.err
    assert "pip install '.[objects]'" in result.err


@pytest.mark.slow
def test_matches_are_chosen_by_uri(site: Site, state: Path, scan: Scan, commands: Commands) -> None:
    bucket = site.bucket(**{"a/one": LISTED, "b/two": LISTED})
    scan(bucket.uri)

    def chosen(*paths: str) -> list[str]:
        options = [word for path in paths for word in ("--path", path)]
        words = ("--state-dir", state, "matches", "--format", "jsonl", *options)
        return [line["path"] for line in commands.run(words, {}).lines]

    assert chosen(f"{bucket.uri}/a/") == [f"{bucket.uri}/a/one"]
    assert chosen(f"{bucket.uri}/b/two") == [f"{bucket.uri}/b/two"]
    assert len(chosen(bucket.uri)) == 2


@pytest.mark.slow
def test_sarif_has_the_uri_of_an_object(site: Site, state: Path, commands: Commands) -> None:
    bucket = site.bucket(**{"a b/ü%": LISTED})
    words = ("--state-dir", state, "scan", "--format", "sarif", bucket.uri)
    (result,) = json.loads(commands.run(words, site.environment).out)["runs"][0]["results"]
    location = result["locations"][0]["physicalLocation"]["artifactLocation"]
    assert location["uri"] == f"{bucket.uri}/a%20b/%C3%BC%25"


@pytest.mark.slow
def test_a_container_that_is_known_is_not_read_again(
    site: Site, state: Path, commands: Commands
) -> None:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("a", OTHER)
        archive.writestr("b", b"b")
    bucket = site.bucket(**{"x.zip": packed.getvalue(), "plain": OTHER})
    words = ("--state-dir", state, "scan", "--format", "jsonl", bucket.uri)
    first = commands.run(words, site.environment)
    site.requests.clear()
    again = commands.run(words, site.environment)
    assert (bucket.reads(), again.code) == ([], 0)
    for name in ("inputs", "clean", "members"):
        assert again.summary[name] == first.summary[name]
    assert again.summary["known_unchanged"] == 4
    # After a scan with `--no-members`, the next scan still uses the earlier record of members.
    commands.run((*words, "--no-members", "--no-inventory"), site.environment)
    site.requests.clear()
    commands.run(words, site.environment)
    assert bucket.reads() == []


@pytest.mark.slow
@pytest.mark.parametrize("code", ["SlowDown", "InternalError"])
def test_a_store_that_is_busy_is_asked_again(
    site: Site, state: Path, scan: Scan, code: str
) -> None:
    bucket = site.bucket(one=LISTED)
    refused: set[Request] = set()

    def busy(request: Request) -> Answer:
        if request in refused:
            return None
        refused.add(request)
        return error("503 Slow Down" if code == "SlowDown" else "500 Internal Server Error", code)

    site.answer = busy
    assert scan("--no-members", bucket.uri).outcomes == {f"{bucket.uri}/one": "match"}
    assert len(refused) > 1


#: Keys of objects. obstore cannot request some of these keys.
UNNAMABLE = ["/lead", "a", "a//b", "a/x", "dir/", "up/../x", "x/./y", "z"]
NAME = "no client can ask for a key like this"


def azure_of(keys: list[str]) -> Callable[[Request], Answer]:
    """Return a server like Azure's, with three objects a page, each with the content `LISTED`."""

    def answer(request: Request) -> Answer:
        _, path, query = request
        asked = parse_qs(query)
        if "comp" in asked:
            (prefix,) = asked.get("prefix", [""])
            (begin,) = asked.get("marker") or asked.get("startFrom") or [""]
            found = [key for key in sorted(keys) if key.startswith(prefix) and key >= begin]
            rows = [(key, len(LISTED), f"0x{key.encode().hex()}") for key in found[:3]]
            return blobs(rows, more="".join(found[3:4]))
        key = unquote(path.partition("/container/")[2])
        if key not in keys:
            return error("404 Not Found", "BlobNotFound")
        time = "Thu, 01 Jan 2026 00:00:00 GMT"
        return "200 OK", {"ETag": f"0x{key.encode().hex()}", "Last-Modified": time}, LISTED

    return answer


@pytest.fixture(params=["gs", "az"])
def unnamable(request: pytest.FixtureRequest, site: Site) -> tuple[str, dict[str, str]]:
    """Return the URI of a bucket with these keys, and the environment to reach it."""
    if request.param == "gs":
        name = "unnamableofgoogle"
        if name not in {b["Name"] for b in site.client.list_buckets()["Buckets"]}:
            site.client.create_bucket(Bucket=name)
            for key in UNNAMABLE:
                site.client.put_object(Bucket=name, Key=key, Body=LISTED, ACL="public-read")
        env = {"GOOGLE_BASE_URL": site.url, "GOOGLE_SKIP_SIGNATURE": "true"}
        return f"gs://{name}", env
    site.answer = azure_of(UNNAMABLE)
    account = {"AZURE_STORAGE_ACCOUNT_NAME": "account", "AZURE_STORAGE_ACCOUNT_KEY": "a2V5"}
    return "az://container", {"AZURE_STORAGE_ENDPOINT": site.url, **account}


@pytest.mark.slow
def test_a_key_of_google_or_azure_that_no_client_can_name_is_unread_alone(
    scan: Scan, unnamable: tuple[str, dict[str, str]]
) -> None:
    bucket, env = unnamable
    plain = {"a", "a/x", "z"}
    result = scan("--no-members", bucket, **env)
    assert result.outcomes == {
        f"{bucket}/{key}": "match" if key in plain else "unread" for key in UNNAMABLE
    }, result.err
    assert set(reasons(result).values()) == {NAME}
    for part in ("/lead", "a//", "up/../", "x/./y"):
        below = {f"{bucket}/{key}": "unread" for key in UNNAMABLE if key.startswith(part)}
        result = scan("--no-members", f"{bucket}/{part}", **env)
        assert result.outcomes == below, result.err


@pytest.mark.slow
def test_a_listing_goes_on_behind_a_key_that_obstore_cannot_name(
    scan: Scan, unnamable: tuple[str, dict[str, str]]
) -> None:
    bucket, env = unnamable
    token = make_token(parse_uri(bucket), "a//b")
    result = scan("--no-members", "--resume", token, bucket, **env)
    assert sorted(result.outcomes) == [f"{bucket}/{key}" for key in UNNAMABLE[3:]], result.err


@pytest.mark.slow
@pytest.mark.parametrize("after", ["/kead", "/lead", "lead", "z"])
def test_a_listing_goes_on_where_keys_begin_with_a_slash(
    scan: Scan, unnamable: tuple[str, dict[str, str]], after: str
) -> None:
    bucket, env = unnamable
    result = scan("--no-members", "--resume", make_token(parse_uri(bucket), after), bucket, **env)
    behind = [f"{bucket}/{key}" for key in UNNAMABLE if key > after]
    assert sorted(result.outcomes) == behind, result.err


@pytest.mark.parametrize("store", ["gs", "az"])
def test_keys_with_a_slash_at_the_beginning_and_then_one_that_has_no_name_keep_their_names(
    scan: Scan, site: Site, store: str
) -> None:
    first = [f"/data/{number:04}" for number in range(PAGE_OBJECTS)]
    second = ["0//a", "A", "b", "data/4"]

    def answer(request: Request) -> Answer:
        query = parse_qs(request[2])
        is_second = bool(query.get("marker", query.get("continuation-token", [""]))[0])
        rows = [(key, len(LISTED), "0") for key in (second if is_second else first)]
        if store == "az":
            return blobs(rows, more="" if is_second else "2")
        return listing(rows, more=None if is_second else "2")

    site.answer = answer
    env = {"GOOGLE_BASE_URL": site.url, "GOOGLE_SKIP_SIGNATURE": "true"}
    if store == "az":
        account = {"AZURE_STORAGE_ACCOUNT_NAME": "account", "AZURE_STORAGE_ACCOUNT_KEY": "a2V5"}
        env = {"AZURE_STORAGE_ENDPOINT": site.url, **account}
    bucket = "gs://slashes" if store == "gs" else "az://container"
    result = scan("--no-members", "--no-read", bucket, **env)
    assert sorted(reasons(result)) == sorted(f"{bucket}/{key}" for key in [*first, *second])
    assert result.code == 3


@pytest.mark.sampled
@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (("200 OK", {}, b"<html/>"), "the store refused: it answered 400"),
        (
            listing([("CONTROL", 10, "0")]),
            "no client can ask for a key like this",
        ),
        (
            ("200 OK", {}, b"<ListBucketResult><IsTruncated>true</IsTruncated></ListBucketResult>"),
            "the store refused: it answered 400",
        ),
        (error("403 Forbidden", "AccessDenied"), "permission denied"),
    ],
)
def test_an_exact_listing_that_fails_is_incomplete(
    site: Site, scan: Scan, answer: Answer, reason: str
) -> None:
    assert answer is not None
    answer = (*answer[:2], answer[2].replace(b"CONTROL", b"a&#1;"))
    asked = iter([listing([("a", 10, "0"), ("b//c", 10, "0")], more="next")])
    site.answer = lambda _request: next(asked, answer)
    env = {"GOOGLE_BASE_URL": site.url, "GOOGLE_SKIP_SIGNATURE": "true"}
    result = scan("gs://some-bucket/", **env)
    assert reasons(result) == {"gs://some-bucket/": f"the listing ended early: {reason}"}
    assert result.code == 3


@pytest.mark.sampled
@pytest.mark.parametrize(
    "page",
    [
        b"<html/>",
        b"<Error><Code>InternalError</Code></Error>",
        b"<ListBucketResult><IsTruncated>true</IsTruncated></ListBucketResult>",
    ],
)
def test_no_other_answer_is_the_end_of_a_listing_of_google(
    site: Site, scan: Scan, page: bytes
) -> None:
    """obstore takes such an answer for the last page and would lose the keys of later pages."""
    keys = [f"p/{number:04}" for number in range(PAGE_OBJECTS)]

    def answer(request: Request) -> Answer:
        if "continuation-token" in request[2]:
            return "200 OK", {}, page
        return listing([(key, 10, "0") for key in keys], more="next")

    site.answer = answer
    env = {"GOOGLE_BASE_URL": site.url, "GOOGLE_SKIP_SIGNATURE": "true"}
    result = scan("--no-members", "--no-read", "gs://some-bucket/p/", **env)
    assert reasons(result).keys() == {f"gs://some-bucket/{key}" for key in [*keys, "p/"]}
    assert result.code == 3
