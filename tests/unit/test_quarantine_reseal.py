"""Sealing items to other keys: the new officer opens it, the old one does not."""

from __future__ import annotations

from pathlib import Path

import pytest

from fixtures.crash import Recorder, watched
from fixtures.quarantine import CONTENT, Ward
from hashclient.core.errors import (
    AuditError,
    AuthorisationError,
    ConfigError,
    StateError,
    UsageError,
)
from hashclient.core.kinds import MatchState
from hashclient.core.match import Match
from hashclient.index.blinding import Sealer
from hashclient.quarantine.age import unseal
from hashclient.quarantine.vault import Resealed, load_identities, write_identity


class Officer:
    """Another officer, with a key of their own."""

    def __init__(self, directory: Path, name: str, ward: Ward) -> None:
        self.key = directory / f"{name}.key"
        self.public = write_identity(self.key, ward.now)

    def opens(self, ward: Ward, match: Match) -> bytes:
        """Return what their key opens."""
        opened = bytearray()
        with ward.evidence(match).open("rb") as sealed:
            unseal(sealed.read, opened.extend, load_identities(self.key))
        return bytes(opened)


@pytest.fixture
def other(tmp_path: Path, ward: Ward) -> Officer:
    return Officer(tmp_path, "other", ward)


@pytest.fixture
def match(ward: Ward, file: Path) -> Match:
    found = ward.match(file)
    assert ward.take(found).taken
    return found


def reseal(ward: Ward, match: Match, *recipients: str, key: Path | None = None) -> Resealed:
    with ward.record() as record:
        return ward.open("erin").reseal(
            match.id, load_identities(key or ward.key), recipients, record, reason="new officer"
        )


def test_the_new_officer_opens_it_and_the_old_one_does_not(
    ward: Ward, match: Match, other: Officer
) -> None:
    before = ward.item(match)
    assert reseal(ward, match, other.public).done
    assert other.opens(ward, match) == CONTENT
    with pytest.raises(AuthorisationError):
        ward.opened(match)
    after = ward.item(match)
    assert after.recipients == (other.public,)
    assert after.evidence_sha256 != before.evidence_sha256
    kept = {"recipients", "evidence_sha256", "evidence_bytes"}
    for name in after.__struct_fields__:
        assert name in kept or getattr(after, name) == getattr(before, name), name
    assert ward.names() == {match.id}
    assert {f.detail for f in ward.verify().values()} == {"whole"}
    assert ward.get(match).state is MatchState.QUARANTINED
    with ward.record() as record:
        assert record.story(match.id)[-1].event == "resealed"
    assert ward.events()[-2:] == ["resealing", "resealed"]
    event = ward.last_event()
    assert (event["by"], event["reason"]) == ("erin", "new officer")
    assert (event["recipients"], event["before"]) == ([other.public], [ward.public])
    assert event["evidence_sha256"] == after.evidence_sha256
    restored = ward.restore(match, key=other.key, force=True)
    assert Path(restored.path).read_bytes() == CONTENT


def test_an_item_sealed_to_exactly_these_keys_is_left_alone(
    ward: Ward, match: Match, other: Officer
) -> None:
    before, events = ward.evidence(match).read_bytes(), ward.events()
    # This key cannot open the item: the program does not even try to open the item.
    assert not reseal(ward, match, f" {ward.public.upper()} ", key=other.key).done
    assert ward.evidence(match).read_bytes() == before
    assert ward.events() == events
    assert reseal(ward, match, ward.public, other.public).done
    assert other.opens(ward, match) == ward.opened(match) == CONTENT
    assert not reseal(ward, match, other.public, ward.public, other.public).done
    assert reseal(ward, match, ward.public).done


def test_a_wrong_key_changes_nothing_and_is_logged(
    ward: Ward, match: Match, other: Officer
) -> None:
    before = ward.evidence(match).read_bytes()
    with pytest.raises(AuthorisationError):
        reseal(ward, match, other.public, key=other.key)
    assert ward.evidence(match).read_bytes() == before
    assert ward.names() == {match.id}
    assert ward.events()[-1] == "resealing"


@pytest.mark.parametrize("recipients", [(), ("age1nonsense",)])
def test_sealing_without_recipients(ward: Ward, match: Match, recipients: tuple[str, ...]) -> None:
    events = ward.events()
    with pytest.raises(ConfigError):
        reseal(ward, match, *recipients)
    assert ward.opened(match) == CONTENT and ward.events() == events


def test_a_damaged_copy_does_not_become_a_sound_one(
    ward: Ward, match: Match, other: Officer
) -> None:
    evidence = ward.evidence(match)
    sound = evidence.read_bytes()
    evidence.write_bytes(sound[:-1] + bytes([sound[-1] ^ 1]))
    with pytest.raises(StateError):
        reseal(ward, match, other.public)
    assert ward.item(match).recipients == (ward.public,)
    assert "altered" in ward.verify()[match.id].detail


def test_another_file_sealed_to_the_same_key_is_not_passed_on(
    ward: Ward, match: Match, other: Officer, tmp_path: Path
) -> None:
    """Any writer to the quarantine has the public key: a copy of theirs is none of ours."""
    another = tmp_path / "share" / "another.bin"
    another.write_bytes(CONTENT[::-1])
    found = ward.match(another, entry="e-2")
    ward.take(found)
    ward.evidence(match).write_bytes(ward.evidence(found).read_bytes())
    # Under another seal key, tags say nothing.
    for sealer in (ward.sealer, Sealer(b"\1" * 32)):
        ward.sealer = sealer
        with pytest.raises(StateError, match="not the file that was sealed"):
            reseal(ward, match, other.public)
    assert ward.item(match).recipients == (ward.public,)


@pytest.mark.parametrize("more", [-1, 1])
def test_a_copy_of_another_length_than_the_file_is_not_passed_on(
    ward: Ward, match: Match, other: Officer, more: int
) -> None:
    """Also where the seal key is another one, so that tags say nothing."""
    path = ward.state / "quarantine" / match.id / "item.json"
    size = f'"size": {len(CONTENT)}'
    assert size in path.read_text()
    path.write_text(path.read_text().replace(size, f'"size": {len(CONTENT) + more}'))
    ward.sealer = Sealer(b"\1" * 32)
    with pytest.raises(StateError, match="not the file that was sealed"):
        reseal(ward, match, other.public)
    assert ward.item(match).recipients == (ward.public,)


def test_digests_prove_it_too(ward: Ward, match: Match, other: Officer) -> None:
    """If an item's document names another copy, that copy is not sealed under this id."""
    item = ward.state / "quarantine" / match.id / "item.json"
    text = item.read_text()
    tag = ward.item(match).tags["sha256"]
    item.write_text(text.replace(tag, tag[::-1]))
    with pytest.raises(StateError, match="not the file that was sealed"):
        reseal(ward, match, other.public)
    # Under another seal key nothing can be said about tags; size and copy still are compared.
    ward.sealer = Sealer(b"\1" * 32)
    assert reseal(ward, match, other.public).done


def test_an_item_on_hold_is_sealed_again_and_stays_on_hold(
    ward: Ward, match: Match, other: Officer
) -> None:
    ward.hold(match)
    assert reseal(ward, match, other.public).done
    assert ward.item(match).hold is not None


def test_a_restored_item_cannot_be_resealed(ward: Ward, match: Match, other: Officer) -> None:
    ward.restore(match, force=True)
    with pytest.raises(UsageError, match="nothing in quarantine"):
        reseal(ward, match, other.public)


def test_without_the_log_nothing_is_sealed_again(
    ward: Ward, match: Match, other: Officer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_args: object, **_options: object) -> None:
        raise AuditError("no")

    monkeypatch.setattr(type(ward.audit), "append", refuse)
    before = ward.evidence(match).read_bytes()
    with pytest.raises(AuditError):
        reseal(ward, match, other.public)
    assert ward.evidence(match).read_bytes() == before


def test_the_only_copy_is_never_exchanged_in_two_steps(
    ward: Ward, match: Match, other: Officer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hashclient.quarantine.store.exchange", lambda *_: False)
    with pytest.raises(StateError, match="in one step"):
        reseal(ward, match, other.public)
    assert ward.opened(match) == CONTENT and ward.names() == {match.id}


def test_a_file_that_is_still_in_place_is_taken_by_its_new_copy(
    ward: Ward, file: Path, other: Officer, monkeypatch: pytest.MonkeyPatch
) -> None:
    match = ward.match(file)
    with monkeypatch.context() as patch:
        patch.setattr(
            "hashclient.quarantine.isolators.files.remove_exactly",
            lambda *_: (_ for _ in ()).throw(PermissionError(13, "denied")),
        )
        assert not ward.take(match).taken
    assert reseal(ward, match, other.public).done
    assert ward.take(match).taken and not file.exists()
    assert other.opens(ward, match) == CONTENT


def test_no_plain_content_is_written(ward: Ward, match: Match, other: Officer) -> None:
    recorder = Recorder()
    created: list[str] = []

    def act(name: str, argument: object) -> None:
        recorder(name, argument)
        if name == "create":
            created.append(str(argument))

    with watched(act):
        reseal(ward, match, other.public)
    quarantine = str(ward.settings.layout.quarantine)
    written = [Path(name).name for name in created if quarantine in name]
    assert "evidence.age" in written and set(written) <= {"evidence.age", "lock"} | {
        name for name in written if name.startswith(".tmp-")
    }
    for path in ward.state.rglob("*"):
        assert path.is_dir() or CONTENT[:64] not in path.read_bytes()
