"""Changes to the text of a configuration: all other text stays, and the values are as intended."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hashclient.config.edit import (
    read_config_text,
    with_provider,
    with_recipient,
    write_config_text,
)
from hashclient.core.errors import ConfigError
from hashclient.system.files import MAX_TEXT_BYTES

KEY = "age1" + "x" * 58
PROVIDER = '# mine\n[providers.main]  # first\nurl = "u"\nroot_sha256 = "00"\n'


def recipients(text: str) -> object:
    return tomllib.loads(text)["quarantine"]["recipients"]


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("", f'[quarantine]\nrecipients = ["{KEY}"]\n'),
        ("a = 1", f'a = 1\n\n[quarantine]\nrecipients = ["{KEY}"]\n'),
        (
            "[quarantine] # kept\nkeep_days = 3\n",
            f'[quarantine] # kept\nkeep_days = 3\nrecipients = ["{KEY}"]\n',
        ),
        ("[quarantine]\nrecipients = []\n", f'[quarantine]\nrecipients = ["{KEY}"]\n'),
        (
            '[quarantine]\nrecipients = ["a"] # one\n',
            f'[quarantine]\nrecipients = ["a", "{KEY}"] # one\n',
        ),
        (
            '[quarantine]\nrecipients = ["a", ]\n',
            f'[quarantine]\nrecipients = ["a", "{KEY}" ]\n',
        ),
        (
            '[quarantine]\nrecipients = [\n    "a",  # [Ann]\n]\n[scan]\n',
            f'[quarantine]\nrecipients = [\n    "a",  # [Ann]\n    "{KEY}",\n]\n[scan]\n',
        ),
        (
            '[quarantine]\nrecipients = [\n  "a" # ]\n]\n',
            f'[quarantine]\nrecipients = [\n  "a", # ]\n    "{KEY}",\n]\n',
        ),
        ('quarantine.recipients = ["a"]\n', f'quarantine.recipients = ["a", "{KEY}"]\n'),
        (
            'x = """\n[quarantine]\n"""\n[quarantine]\n',
            f'x = """\n[quarantine]\n"""\n[quarantine]\nrecipients = ["{KEY}"]\n',
        ),
        (
            # A recipient in another table is ignored.
            '[report.to.x]\nrecipients = ["a"]\n[quarantine]\n',
            f'[report.to.x]\nrecipients = ["a"]\n[quarantine]\nrecipients = ["{KEY}"]\n',
        ),
        (
            '[quarantine]\r\nrecipients = ["a"]\r\n',
            f'[quarantine]\r\nrecipients = ["a", "{KEY}"]\r\n',
        ),
    ],
)
def test_a_recipient_is_put_where_it_belongs(before: str, after: str) -> None:
    text = with_recipient(before, KEY, "f")
    assert text == after
    # A second call does not add the recipient again.
    assert with_recipient(text, KEY, "f") == text


@pytest.mark.parametrize(
    "text",
    [
        "quarantine = { keep_days = 3 }\n",
        "quarantine.keep_days = 3\n",
        "quarantine = 3\n",
        "[quarantine]\nrecipients = 3\n",
        "[[quarantine]]\n",
        "[quarantine]\n[quarantine]\n",
        "a = = 1\n",
        "x." * 3000 + "x = 1\n",
    ],
)
def test_a_recipient_is_added_or_the_error_says_that_nothing_was_changed(text: str) -> None:
    try:
        done = with_recipient(text, KEY, "f")
    except ConfigError as error:
        assert "nothing was changed" in str(error.hint)  # noqa: PT017 - either is right
    else:
        assert recipients(done) == [KEY]


_pieces = st.lists(
    st.sampled_from(
        [
            *("[quarantine]", "recipients", " = ", "[", "]", '"a"', ",", "\n", "# ]", "\n[scan]\n"),
            *("keep_days = 3\n", "'''", "x = ", '"]"', "{", "}", "quarantine", "."),
        ]
    ),
    max_size=14,
).map("".join)


@given(_pieces)
def test_adding_a_recipient_changes_no_other_setting(text: str) -> None:
    try:
        before = tomllib.loads(text)
    except ValueError:
        with pytest.raises(ConfigError):
            with_recipient(text, KEY, "f")
        return
    try:
        after = tomllib.loads(with_recipient(text, KEY, "f"))
    except ConfigError:
        return
    table = before.setdefault("quarantine", {})
    table["recipients"] = [*table.get("recipients", []), KEY]
    assert after == before


TABLE = '[providers.new]\nurl = "https://x/"\n'


@pytest.mark.parametrize(
    "text",
    [
        "",
        "# mine",
        "[scan]\njobs = 1",
        "[providers]\n",
        "providers.old.url = ''",
        "[providers.old]\nurl = 'https://y/'\n",
    ],
)
def test_a_provider_is_added_at_the_end(text: str) -> None:
    changed = with_provider(text, "new", TABLE, "f")
    assert changed.startswith(text)
    providers = tomllib.loads(text).get("providers", {})
    assert tomllib.loads(changed)["providers"] == providers | {"new": {"url": "https://x/"}}


@pytest.mark.parametrize(
    "text",
    [
        "providers = {}",
        "providers = 1",
        "[[providers]]",
        "[providers.new]\nurl = 'https://y/'",
        "#" * MAX_TEXT_BYTES,
        "x = ",
    ],
)
def test_a_provider_that_would_break_it_is_not_added(text: str) -> None:
    with pytest.raises(ConfigError, match=r"cannot add a provider|f is not valid") as caught:
        with_provider(text, "new", TABLE, "f")
    assert "nothing was changed" in (caught.value.hint or "")


def test_a_file_keeps_its_mode_and_stays_where_a_link_leads(tmp_path: Path) -> None:
    real = tmp_path / "real.toml"
    real.write_text("a = 1\n")
    real.chmod(0o640)
    link = tmp_path / "etc" / "config.toml"
    link.parent.mkdir()
    link.symlink_to(real)
    write_config_text(link, "b = 2\n")
    assert link.is_symlink() and real.read_text() == "b = 2\n"
    assert real.stat().st_mode & 0o777 == 0o640
    assert {p.name for p in tmp_path.iterdir()} == {"etc", "real.toml"}
    new = tmp_path / "new" / "config.toml"
    assert read_config_text(new) == ""
    write_config_text(new, PROVIDER)
    assert (new.read_text(), new.stat().st_mode & 0o777) == (PROVIDER, 0o644)
