"""Settings of S3 in the environment: they are those that botocore would find, or it is asked."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from fixtures.buckets import ACCESS_KEY, SECRET_KEY, Answer, Site, error
from hashclient.objects.environment import read_settings
from hashclient.objects.s3 import S3
from tests.kit import ROOT, environment

ALONE = {
    "AWS_ACCESS_KEY_ID": ACCESS_KEY,
    "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
    "AWS_ENDPOINT_URL": "http://127.0.0.1:9",
    "AWS_CONFIG_FILE": os.devnull,
    "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
}


@pytest.fixture(autouse=True)
def _no_aws_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))


@pytest.fixture
def site() -> Iterator[Site]:
    site = Site()
    yield site
    site.close()


@pytest.mark.sampled
@pytest.mark.parametrize(
    "more",
    [
        {},
        {"AWS_DEFAULT_REGION": "eu-central-1"},
        {"AWS_DEFAULT_REGION": ""},
        {"AWS_REGION": "eu-west-3"},
        {"AWS_SESSION_TOKEN": "token"},
        {"AWS_SESSION_TOKEN": ""},
        {"AWS_ENDPOINT_URL": "https://Store.example:9000"},
        {"AWS_CA_BUNDLE": "/etc/ssl/certs/ca-certificates.crt", "AWS_PAGER": "less"},
        {"AWS_CONFIG_FILE": "none", "AWS_SHARED_CREDENTIALS_FILE": ""},
    ],
)
def test_settings_of_the_environment_equal_those_of_botocore(
    monkeypatch: pytest.MonkeyPatch, more: Mapping[str, str]
) -> None:
    for name, value in {**ALONE, **more}.items():
        monkeypatch.setenv(name, value)
    settings = read_settings()
    assert settings is not None
    s3 = S3("bucket")
    assert (settings.endpoint, settings.region) == (s3.endpoint, s3.region)
    assert s3._credentials is not None
    found = s3._credentials.get_frozen_credentials()
    known = settings.provider()
    assert (known["access_key_id"], known["secret_access_key"]) == found[:2]
    assert known["token"] == (found.token or None)


@pytest.mark.parametrize(
    "more",
    [
        {"AWS_ACCESS_KEY_ID": ""},
        {"AWS_PROFILE": "work"},
        {"AWS_ENDPOINT_URL": ""},
        {"AWS_ENDPOINT_URL": "https://s3.eu-central-1.amazonaws.com"},
        {"AWS_ENDPOINT_URL": "https://store.example/path"},
        {"AWS_ENDPOINT_URL_S3": "https://store.example"},
        {"AWS_SKIP_SIGNATURE": "true"},
        {"AWS_A_LATER_SETTING": "x"},
        {"AWS_CONFIG_FILE": "config"},
        {"AWS_CONFIG_FILE": "pipe"},
        {"AWS_SHARED_CREDENTIALS_FILE": "config"},
        {"AWS_CONFIG_FILE": ""},
    ],
)
def test_botocore_is_asked_where_anything_else_has_a_say(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, more: Mapping[str, str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config").write_text("[default]\nregion = eu-central-1\n")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / ".aws").mkdir()
    (tmp_path / ".aws" / "config").write_text("[default]\n")
    for name, value in {**ALONE, **more}.items():
        monkeypatch.setenv(name, value)
    assert read_settings() is None


def run(code: str, env: Mapping[str, str], *args: str) -> str:
    """Return what Python code prints, in a process of its own: obstore starts threads."""
    words = [sys.executable, "-c", code, *args]
    done = subprocess.run(words, env=env, cwd=ROOT, capture_output=True, text=True, check=True)
    return done.stdout


SLASH = """
import sys
from hashclient.objects.environment import read_settings
from hashclient.objects.stores import Store
print(Store("s3", sys.argv[1]).has_leading_slash(), read_settings().has_leading_slash(sys.argv[1]))
print("botocore" in sys.modules)
"""


@pytest.mark.sampled
@pytest.mark.parametrize("key", ["/lead", "//", "a", ""])
def test_whether_keys_begin_with_a_slash(site: Site, key: str) -> None:
    bucket = site.bucket(**{key: b"x"} if key else {})
    is_so = key.startswith("/")
    told = run(SLASH, environment(**site.environment), bucket.name)
    assert told == f"{is_so} {is_so}\nFalse\n"
    assert {query for _, _, query in site.requests} == {"list-type=2&max-keys=1&prefix=%2F"}


@pytest.mark.slow
@pytest.mark.parametrize(
    "answer",
    [
        error("200 OK", "Other"),
        ("200 OK", {}, b"<ListBucketResult>" + b" " * (1 << 16)),
        error("403 Forbidden", "AccessDenied"),
    ],
)
def test_where_an_answer_says_nothing_botocore_is_asked(site: Site, answer: Answer) -> None:
    bucket = site.bucket(**{"/lead": b"x"})
    site.answer = lambda request: answer if request[2].startswith("list-type=2&max") else None
    told = run(SLASH, environment(**site.environment), bucket.name)
    assert told == "True None\nTrue\n"


CODE = """
import sys
from hashclient.core.objecturi import parse_uri
from hashclient.objects.listing import list_pages
from hashclient.objects.stores import Store
uri = parse_uri(sys.argv[1])
rows = sum(page.num_rows for page in list_pages(Store(uri.scheme, uri.bucket), uri))
print(rows, "botocore" in sys.modules)
"""


@pytest.mark.slow
@pytest.mark.parametrize("has_profile", [False, True])
def test_botocore_is_loaded_only_where_it_is_needed(
    site: Site, tmp_path: Path, *, has_profile: bool
) -> None:
    bucket = site.bucket(one=b"1", two=b"2")
    env = environment(**site.environment)
    if has_profile:
        config = tmp_path / "config"
        config.write_text(
            f"[profile work]\naws_access_key_id = {ACCESS_KEY}\n"
            f"aws_secret_access_key = {SECRET_KEY}\nendpoint_url = {site.url}\n"
        )
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_ENDPOINT_URL"):
            del env[name]
        env |= {"AWS_PROFILE": "work", "AWS_CONFIG_FILE": str(config)}
    assert run(CODE, env, f"{bucket.uri}/") == f"2 {has_profile}\n"
