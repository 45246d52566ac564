"""`watch` of buckets: each event is processed at least once, each match is recorded once."""

from __future__ import annotations

import contextlib
import io
import json
import os
import random
import signal
import subprocess
import time
import uuid
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import botocore.session
import pytest

from fixtures import buckets
from fixtures.buckets import error, is_listing
from hashclient import Client, UsageError
from hashclient.scan.run.start import SPOOL_BYTES
from tests.kit import State, arguments, edit_manifest, environment

LISTED = b"a file that is listed"
#: The limit in seconds, which the test reaches only if it fails.
TIMEOUT_S = 120


def zip_of(content: bytes) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("inside", content)
    return packed.getvalue()


class World:
    """A bucket whose events are sent to a queue, and a state directory."""

    def __init__(self, directory: Path) -> None:
        self.state = State(directory, {"base": {"e-1": LISTED}})
        self.state.configure("")
        self.site = buckets.Site()
        self.bucket = self.site.bucket()
        self.queue = f"q-{uuid.uuid4().hex[:12]}"
        self.sqs: Any = botocore.session.get_session().create_client(
            "sqs",
            region_name="us-east-1",
            endpoint_url=self.site.url,
            aws_access_key_id=buckets.ACCESS_KEY,
            aws_secret_access_key=buckets.SECRET_KEY,
        )
        dead = self.sqs.create_queue(QueueName=f"{self.queue}-dead")["QueueUrl"]
        self.dead = dead
        policy = {"deadLetterTargetArn": self._arn(dead), "maxReceiveCount": 2}
        self.url = self.sqs.create_queue(
            QueueName=self.queue,
            # The time in seconds exceeds that of a check on a busy machine.
            Attributes={"RedrivePolicy": json.dumps(policy), "VisibilityTimeout": "120"},
        )["QueueUrl"]
        where = {"QueueArn": self._arn(self.url), "Events": ["s3:ObjectCreated:*"]}
        self.site.client.put_bucket_notification_configuration(
            Bucket=self.bucket.name,
            NotificationConfiguration={"QueueConfigurations": [where]},
        )

    def _arn(self, url: str) -> str:
        got = self.sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])
        return got["Attributes"]["QueueArn"]  # type: ignore[no-any-return]

    def close(self) -> None:
        self.sqs.close()
        self.site.close()

    def set_queue(self, **attributes: str) -> None:
        """Change attributes of the queue."""
        self.sqs.set_queue_attributes(QueueUrl=self.url, Attributes=attributes)

    def count(self, url: str) -> int:
        """Return the number of messages in a queue, including delivered messages."""
        names = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
        got = self.sqs.get_queue_attributes(QueueUrl=url, AttributeNames=names)["Attributes"]
        return sum(int(got[name]) for name in names)

    @contextlib.contextmanager
    def watching(
        self, *more: object, events: str | None = None, **options: Any
    ) -> Iterator[subprocess.Popen[str]]:
        """Run a watch while the block runs."""
        words = ("watch", "--format", "jsonl", "--events", events or f"sqs://{self.queue}")
        process = subprocess.Popen(
            arguments("--state-dir", self.state.path, *words, *more, self.bucket.uri),
            env=environment(**self.site.environment),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            **options,
        )
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()
            process.communicate()

    def matches(self) -> list[str]:
        """Return the paths of the recorded matches."""
        found = self.state.call("matches", "--format", "jsonl")
        return sorted(line["path"] for line in found.lines)


def until(condition: Callable[[], bool]) -> None:
    """Wait until a condition is true."""
    end = time.monotonic() + TIMEOUT_S
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    try:
        yield made
    finally:
        made.close()


@pytest.mark.slow
def test_a_new_object_is_checked_and_its_event_taken_back(world: World) -> None:
    contents = {"a b+c": LISTED, "clean": b"clean", "é/packed": zip_of(LISTED)}
    for key, content in contents.items():
        world.bucket.put(key, content)
    world.bucket.put("gone", LISTED)
    world.bucket.delete("gone")
    with world.watching("--rescan-every", "1000h") as process:
        until(lambda: world.count(world.url) == 0)
        assert process.poll() is None  # the watch runs until SIGTERM
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 0 and "Traceback" not in err
    expected = [f"{world.bucket.uri}/{key}" for key in ("a b+c", "é/packed")]
    assert {json.loads(line)["path"].partition("!")[0] for line in out.splitlines()} == {*expected}
    assert world.matches() == expected
    assert world.count(world.dead) == 0


@pytest.mark.slow
def test_each_version_is_recorded_by_itself_and_once(world: World) -> None:
    world.bucket.keep_versions()
    versions = [world.bucket.put("a", LISTED) for _ in range(2)]
    for version in versions * 2:  # the server omits the versions in its events
        named = {
            "bucket": {"name": world.bucket.name},
            "object": {"key": "a", "versionId": version},
        }
        body = json.dumps({"Records": [{"eventName": "ObjectCreated:Put", "s3": named}]})
        world.sqs.send_message(QueueUrl=world.url, MessageBody=body)
    with world.watching() as process:
        until(lambda: world.count(world.url) == 0)
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=TIMEOUT_S)
    assert world.matches() == sorted(f"{world.bucket.uri}/a?versionId={v}" for v in versions)


@pytest.mark.slow
def test_without_versions_each_content_of_a_key_is_recorded_once(world: World) -> None:
    other = b"another file that is listed"
    world.state.add({"e-2": other})
    names = f"{world.bucket.uri}/a\n" * 3
    found = []
    for content in (LISTED, LISTED, other):
        world.bucket.put("a", content)
        with world.watching(events="-", stdin=subprocess.PIPE) as process:
            out, _ = process.communicate(names, timeout=TIMEOUT_S)
        assert {json.loads(line)["type"] for line in out.splitlines()} == {"match"}
        found.append(len(world.matches()))
    assert found == [1, 1, 2]


@pytest.mark.slow
def test_an_object_that_cannot_be_read_goes_to_the_dead_letters(world: World) -> None:
    world.set_queue(VisibilityTimeout="1")
    world.bucket.put("damaged", zip_of(b"clean")[:-30])
    world.sqs.send_message(QueueUrl=world.url, MessageBody="no event")
    with world.watching() as process:
        until(lambda: world.count(world.dead) == 2)
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=TIMEOUT_S)
    assert [json.loads(line)["type"] for line in out.splitlines()] == ["unread"]
    assert "no known form" in err
    assert world.count(world.url) == 0


@pytest.mark.slow
def test_a_listing_beside_it_finds_objects_whose_event_never_came(world: World) -> None:
    world.site.client.put_bucket_notification_configuration(
        Bucket=world.bucket.name, NotificationConfiguration={}
    )
    world.bucket.put("missed", LISTED)
    with world.watching():
        until(lambda: world.matches() == [f"{world.bucket.uri}/missed"])


@pytest.mark.slow
def test_while_a_list_is_stale_events_wait(world: World) -> None:
    edit_manifest(world.state.path, "base", expires="2020-01-01T00:00:00Z")
    world.bucket.put("a", LISTED)
    with world.watching() as process:
        assert process.stderr is not None
        for line in process.stderr:
            if "lists are stale" in line:
                break
        assert world.count(world.url) == 2  # one of them is the message that announces events


@pytest.mark.slow
def test_names_on_stdin_are_checked_until_their_end(world: World) -> None:
    world.bucket.put("a", LISTED)
    world.bucket.put("b", b"clean")
    names = f"{world.bucket.uri}/a\nno name\n{world.bucket.uri}/b\ns3://other/a"
    with world.watching(events="-", stdin=subprocess.PIPE) as process:
        out, err = process.communicate(names, timeout=TIMEOUT_S)
    assert process.returncode == 0 and "no known form" in err
    assert [json.loads(line)["path"] for line in out.splitlines()] == [f"{world.bucket.uri}/a"]


@pytest.mark.slow
@pytest.mark.parametrize("kills", [4, pytest.param(30, marks=pytest.mark.deep)])
def test_a_kill_at_any_moment_loses_no_event_and_records_no_match_twice(
    world: World, kills: int
) -> None:
    chance = random.Random(kills)
    keys = [f"k{number:03}" for number in range(10 * kills)]
    # After a kill, the queue may deliver events a third time, which is no failure of their objects.
    world.set_queue(RedrivePolicy="", VisibilityTimeout="1")
    for first in range(0, len(keys), 10):
        for key in keys[first : first + 10]:
            world.bucket.put(key, LISTED + key.encode() if int(key[1:]) % 2 else LISTED)
        with world.watching("--no-actions") as process:
            assert process.stdout is not None
            for _ in range(chance.randrange(1, 4)):
                process.stdout.readline()
            time.sleep(chance.random() / 20)
            os.kill(process.pid, signal.SIGKILL)
    with world.watching() as process:
        until(lambda: world.count(world.url) == 0)
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=TIMEOUT_S)
    listed = [key for key in keys if not int(key[1:]) % 2]
    assert world.matches() == [f"{world.bucket.uri}/{key}" for key in listed]
    assert world.state.call("audit", "verify").code == 0


@pytest.mark.parametrize(
    "words",
    [
        ("s3://uploads/",),
        ("/srv", "--events", "-"),
        ("/srv", "s3://uploads/", "--events", "-"),
        ("s3://uploads/", "--events", "q"),
        ("s3://uploads/", "--events", "-", "--exclude", "*.iso"),
    ],
)
def test_folders_and_buckets_are_watched_by_commands_of_their_own(
    tmp_path: Path, words: tuple[str, ...]
) -> None:
    state = State(tmp_path, {"base": {"e-1": LISTED}})
    done = state.call("watch", *words)
    assert done.code == 2 and done.err.count("error: ") == 1


def test_archives_have_as_much_room_as_in_a_scan(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def checker(_: Client, **options: Any) -> None:
        asked.append(options["spool_bytes"])
        raise UsageError("this is enough")

    monkeypatch.setattr(Client, "checker", checker)
    state = State(tmp_path, {"base": {"e-1": LISTED}})
    assert state.call("watch", "s3://uploads/", "--events", "-").code == 2
    assert asked == [SPOOL_BYTES]


@pytest.mark.slow
def test_a_listing_that_fails_is_told(world: World) -> None:
    world.site.answer = lambda request: (
        error("403 Forbidden", "AccessDenied") if is_listing(request) else None
    )
    with world.watching() as process:
        assert process.stderr is not None
        assert any("the scan of the URIs ended with 3" in line for line in process.stderr)
