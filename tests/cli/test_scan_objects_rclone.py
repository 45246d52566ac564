"""`hashclient scan s3://…` against another server: that of rclone, which checks signatures."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from fixtures.buckets import ACCESS_KEY, SECRET_KEY
from hashclient.objects.failures import NO_RANGES
from tests.kit import Run, csv_of, environment, make_state, run, write_tree

RCLONE = shutil.which("rclone")
pytestmark = [
    pytest.mark.deep,
    pytest.mark.skipif(RCLONE is None, reason="rclone is not installed"),
]

LISTED = b"listed one"
OTHER = LISTED[::-1]
BIG = bytes(range(256)) * 30_000
#: More objects than a page of the listing has.
MANY = {f"many/{n:04}": b"%d" % n for n in range(1_100)}


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> Path:
    entries = {"base": csv_of({"e-1": LISTED, "e-2": BIG})}
    return make_state(tmp_path_factory.mktemp("site"), entries)


@pytest.fixture(scope="module")
def reached(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mapping[str, str]]:
    """Serve folders as buckets, and yield the environment variables of a client."""
    root = tmp_path_factory.mktemp("rclone")
    write_tree(root / "bucket", {"one": LISTED, "a b/ü+%": OTHER, "a b/big": BIG, **MANY})
    assert RCLONE is not None
    words: list[str | Path] = [
        RCLONE,
        "serve",
        "s3",
        root,
        "--addr",
        "127.0.0.1:0",
        "--config",
        os.devnull,
    ]
    words += ["--auth-key", f"{ACCESS_KEY},{SECRET_KEY}", "--etag-hash", "MD5"]
    with subprocess.Popen(words, stderr=subprocess.PIPE, text=True) as server:
        try:
            assert server.stderr is not None
            said = ""
            while not (started := re.search(r"http://[0-9.]+:[0-9]+", said)):
                line = server.stderr.readline()
                if not line and "unknown flag" in said:
                    pytest.skip("this rclone is too old to serve S3")
                assert line, said  # an empty line means that the server has ended
                said += line
            yield {
                "AWS_ENDPOINT_URL": started[0],
                "AWS_ACCESS_KEY_ID": ACCESS_KEY,
                "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
                "AWS_CONFIG_FILE": os.devnull,
                "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
            }
        finally:
            server.terminate()


def scan(state: Path, env: Mapping[str, str], *args: str) -> Run:
    words = ("--state-dir", state, "scan", "--format", "jsonl", "--show-all", *args)
    return run(*words, env=environment(**env))


@pytest.mark.parametrize("region", [None, "eu-central-1"])
def test_objects_are_listed_and_read(
    state: Path, reached: Mapping[str, str], region: str | None
) -> None:
    env = dict(reached) if region is None else {**reached, "AWS_DEFAULT_REGION": region}
    result = scan(state, env, "--no-members", "s3://bucket/")
    expected = {
        "s3://bucket/one": "match",
        "s3://bucket/a b/big": "match",
        "s3://bucket/a b/ü+%25": "clean",
        **{f"s3://bucket/{key}": "clean" for key in MANY},
    }
    assert (result.code, result.outcomes) == (10, expected)


def test_a_part_that_comes_as_a_whole_is_not_read(state: Path, reached: Mapping[str, str]) -> None:
    """The server of rclone answers a range request with 200 instead of 206."""
    result = scan(state, reached, "--no-inventory", "s3://bucket/a b/big")
    (reason,) = (line["reason"] for line in result.lines if line["type"] == "unread")
    assert (reason, result.code) == (NO_RANGES, 3)


def test_a_wrong_key_is_no_clean_bucket(state: Path, reached: Mapping[str, str]) -> None:
    result = scan(state, {**reached, "AWS_SECRET_ACCESS_KEY": "another"}, "s3://bucket/")
    assert result.outcomes == {"s3://bucket/": "unread"}
    assert result.code == 3
    assert "another" not in result.out + result.err
