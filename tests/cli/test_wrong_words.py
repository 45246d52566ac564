"""A wrong command line: what its message must say, and what it must never say."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.kit import call

LONG = "xyz" * 100


@pytest.mark.parametrize(
    "words",
    [
        ("fetch", f"--{LONG}"),
        ("fetch", f"--{LONG}=xyz"),
        ("fetch", "one\ntwo xyz"),
        ("xyz\n", "fetch"),
        ("scan", "--format", "xyz\n"),
        ("scan", "--jobs", f"one\n{LONG}"),
        ("audit", "show", "--since", LONG),
        ("provider", "init", "--key=xyz\nxyz"),
    ],
)
def test_a_word_of_several_lines_or_great_length_is_not_repeated(words: tuple[str, ...]) -> None:
    result = call(*words)
    assert result.code == 2 and "xyzxyz" not in result.err and "xyz\\n" not in result.err
    assert "xyz" not in result.err.replace("--key", "") and len(result.err.splitlines()) == 2


def test_an_empty_path_is_not_the_working_directory() -> None:
    """At `/`, all file systems would be forgotten."""
    for words in (("inventory", "forget", ""), ("watch", "")):
        result = call(*words)
        assert result.code == 2 and "a path is empty" in result.err


@pytest.mark.parametrize("digits", ["9" * 400, "9" * 5000])
def test_a_length_of_time_beyond_any_timer_is_a_wrong_word(digits: str) -> None:
    for words in (("watch", "--settle", digits, "/"), ("serve", "--idle", f"{digits}d")):
        result = call(*words)
        assert result.code == 2 and "is not a length of time, such as 90, 30m or 1h" in result.err


SPLIT = "-----BEGIN {}PRIVATE KEY----- TWC4QQ/x{} TWC4QQ== -----END {}PRIVATE KEY-----"


@pytest.mark.parametrize(
    "words",
    [
        ("scan", "--jobs", "AGE-SECRET-KEY-1QQQQQQTWC4"),
        ("scan", "--jobs=age-secret-key-pq-1qqqqqqTWC4"),
        ("fetch", "-----BEGIN PRIVATE KEY-----\nTWC4QQ==\n"),
        ("fetch", "PRIVATE KEY-----\nTWC4QQ==\n"),
        ("fetch", *SPLIT.format("", "", "").split()),
        ("fetch", *SPLIT.format("OPENSSH ", "TWC4QQ==", "OPENSSH ").lower().split()),
        *(("fetch", "--wait", *SPLIT.format(k, "ab", k).split()[:-3]) for k in ("", "OPENSSH ")),
        *(
            ("report", "verify", "x", "--identity", *SPLIT.format(k, "ab", k).split()[:-3])
            for k in ("", "OPENSSH ")
        ),
    ],
)
def test_a_secret_key_is_not_repeated_and_a_hint_says_so(words: tuple[str, ...]) -> None:
    result = call(*words)
    assert result.code == 2 and "twc4" not in result.err.lower()
    assert "hint: a secret key must not stand on a command line" in result.err


@pytest.mark.parametrize(
    "words",
    [
        ("scan", "--jobs", "x", "/tmp/age-secret-key-docs"),
        ("scan", "--jobs", "x", "AGE-SECRET-KEY-1QQQQQQTWC4"),
        ("quarantine", "restore", "--identity", "/etc/age-secret-key-backup.txt", "abc"),
        ("quarantine", "restore", "--identity", "AGE-SECRET-KEY-1QQQQQQTWC4", "abc"),
    ],
)
def test_the_hint_is_on_what_the_error_is_about(words: tuple[str, ...]) -> None:
    result = call(*words)
    assert result.code == 2 and f"hint: see `hashclient {words[0]}" in result.err
    assert "TWC4" not in result.err


@pytest.mark.parametrize(
    "words",
    [
        ("report", "verify", "--identity", "{}", "."),
        ("--config", "{}", "status"),
        ("init", "https://a.invalid", "--root", "{}"),
        ("provider", "export", "{}", "--to", "x"),
    ],
)
def test_the_name_of_a_file_is_whole_in_its_error(words: tuple[str, ...], tmp_path: Path) -> None:
    for name in ("age-secret-key-2026.txt", f"{LONG[:240]}/{LONG[:240]}"):
        path = tmp_path / name
        result = call(*(word.format(path) for word in words))
        assert result.code != 0 and str(path) in result.err


def test_a_usual_word_is_repeated() -> None:
    result = call("fetch", "--nothing-like-that")
    assert "no such option '--nothing-like-that'" in result.err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("scan", "--jobs", "abc"), "'--jobs': 'abc' is not a whole number from 1 to 256"),
        (("scan", "--jobs", "0"), "'--jobs': 0 is not a whole number from 1 to 256"),
        (("fetch", "--wait", "abc"), "'--wait': 'abc' is not a number from 0 to 86,400\n"),
        (("init", "--max-churn", "0"), "0.0 is not a number above 0, of at most 1,000,000"),
        (("provider", "diff", ".", "--list", "x", "y"), "'y' is not a whole number of at least 0"),
    ],
)
def test_a_wrong_number_is_answered_with_the_right_ones(words: tuple[str, ...], said: str) -> None:
    result = call(*words)
    assert result.code == 2 and said in result.err
    assert "valid" not in result.err.replace("invalid", "") and "range" not in result.err


@pytest.mark.parametrize(
    ("variable", "value", "words", "said"),
    [
        ("HASHCLIENT_SCAN_FORMAT", "json", ("scan", "x"), "'json' is not one of 'text', "),
        ("HASHCLIENT_SCAN_JOBS", "0", ("scan", "x"), "0 is not a whole number from 1 to 256"),
        (
            "HASHCLIENT_AUDIT_SHOW_SINCE",
            "xyz",
            ("audit", "show"),
            "'xyz' is not like 2026-01-31 or ",
        ),
        ("HASHCLIENT_MATCHES_FORMAT", "xyz", ("matches", "list"), "'xyz' is not one of 'text', "),
        ("HASHCLIENT_NOTICES_LIST_FORMAT", "xyz", ("notices",), "'xyz' is not one of 'text', "),
        ("HASHCLIENT_LOCAL_TIME", "xyz", ("fetch",), "'xyz' is not "),
    ],
)
def test_a_wrong_value_from_the_environment_is_blamed_on_its_variable(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, words: tuple[str, ...], said: str
) -> None:
    monkeypatch.setenv(variable, value)
    result = call(*words)
    assert result.code == 2 and "for '--" not in result.err
    assert result.err.startswith(
        f"hashclient: error: invalid value in environment variable {variable}: {said}"
    )
    monkeypatch.setenv(variable, f"xyz\n{value}")
    assert "xyz" not in call(*words).err
