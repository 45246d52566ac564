"""Sealing items to other keys: the new officer can open them, and the old officer cannot."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path

import pytest

from fixtures.crash import Recorder, watched
from fixtures.quarantine import CONTENT, Ward
from hashclient.audit.log import read
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
    """Another officer with a separate key."""

    def __init__(self, directory: Path, name: str, ward: Ward) -> None:
        self.key = directory / f"{name}.key"
        self.public = write_identity(self.key, ward.now)

    def opens(self, ward: Ward, match: Match) -> bytes:
        """Return the content that the officer's key opens."""
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


def test_the_bytes_that_are_sealed_again_are_counted(
    ward: Ward, match: Match, other: Officer
) -> None:
    counted: list[int] = []
    with ward.record() as record:
        ward.open(on_bytes=counted.append).reseal(
            *(match.id, load_identities(ward.key), (other.public,), record), reason="x"
        )
    assert sum(counted) == len(CONTENT)


def test_an_item_sealed_to_exactly_these_keys_is_left_alone(
    ward: Ward, match: Match, other: Officer
) -> None:
    before, events = ward.evidence(match).read_bytes(), ward.events()
    # The program does not even try to open the item with this wrong key.
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
    """An attacker who can write to the quarantine can seal another file to the public key."""
    another = tmp_path / "share" / "another.bin"
    another.write_bytes(CONTENT[::-1])
    found = ward.match(another, entry="e-2")
    ward.take(found)
    ward.evidence(match).write_bytes(ward.evidence(found).read_bytes())
    # With another seal key, the tags prove nothing.
    for sealer in (ward.sealer, Sealer(b"\1" * 32)):
        ward.sealer = sealer
        with pytest.raises(StateError, match="not the file that was sealed"):
            reseal(ward, match, other.public)
    assert ward.item(match).recipients == (ward.public,)


@pytest.mark.parametrize("more", [-1, 1])
def test_a_copy_of_another_length_than_the_file_is_not_passed_on(
    ward: Ward, match: Match, other: Officer, more: int
) -> None:
    """This also holds if the seal key has changed and the tags prove nothing."""
    path = ward.state / "quarantine" / match.id / "item.json"
    size = f'"size": {len(CONTENT)}'
    assert size in path.read_text()
    path.write_text(path.read_text().replace(size, f'"size": {len(CONTENT) + more}'))
    ward.sealer = Sealer(b"\1" * 32)
    with pytest.raises(StateError, match="not the file that was sealed"):
        reseal(ward, match, other.public)
    assert ward.item(match).recipients == (ward.public,)


def test_digests_prove_it_too(ward: Ward, match: Match, other: Officer) -> None:
    """If an item's document describes another copy, the described copy is not sealed again."""
    item = ward.state / "quarantine" / match.id / "item.json"
    text = item.read_text()
    tag = ward.item(match).tags["sha256"]
    item.write_text(text.replace(tag, tag[::-1]))
    with pytest.raises(StateError, match="not the file that was sealed"):
        reseal(ward, match, other.public)
    # With another seal key, tags prove nothing; size and copy are still compared.
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


# Context files of the item


@pytest.fixture
def notes(ward: Ward, match: Match, tmp_path: Path) -> Path:
    """A context file of the item."""
    path = tmp_path / "notes"
    path.write_bytes(b"notes " * 30_000)
    with ward.record() as record:
        ward.open("ann").add_context(match.id, [path], record, reason="17/4")
    return path


def opened(path: Path, key: Path) -> bytes:
    found = bytearray()
    with path.open("rb") as sealed:
        unseal(sealed.read, found.extend, load_identities(key))
    return bytes(found)


def test_files_that_belong_to_an_item_get_the_same_new_recipients(
    ward: Ward, match: Match, other: Officer, notes: Path
) -> None:
    before = ward.item(match)
    ward.now += timedelta(days=1)
    assert reseal(ward, match, f" {other.public.upper()} ", other.public).done
    item = ward.item(match)
    assert item.recipients == item.context[0].recipients == (other.public,)
    assert (item.context[0].path, item.context[0].added) == (str(notes), before.context[0].added)
    copy = ward.evidence(match).with_name("evidence.1.age")
    assert opened(copy, other.key) == notes.read_bytes() and other.opens(ward, match) == CONTENT
    with pytest.raises(AuthorisationError):
        opened(copy, ward.key)
    assert {found.detail for found in ward.verify().values()} == {"whole"}
    (intent,) = read(ward.settings.layout.audit, event="resealing")
    (done,) = read(ward.settings.layout.audit, event="resealed")
    assert intent.data["recipients"] == done.data["recipients"] == [other.public]
    assert (done.data["before"], done.data["by"]) == ([ward.public], "erin")
    assert (done.data["evidence_sha256"], done.data["evidence_bytes"]) == (
        *(item.evidence_sha256, item.evidence_bytes),
    )
    assert item.evidence_sha256 != before.evidence_sha256
    with ward.record() as record:
        step = record.story(match.id)[-1]
    assert (step.event, step.time) == ("resealed", ward.now)
    assert step.detail == {"by": "erin", "reason": "new officer"}


def test_an_item_is_sealed_again_if_one_of_its_files_has_other_recipients(
    ward: Ward, match: Match, other: Officer, notes: Path
) -> None:
    path = ward.evidence(match).with_name("item.json")
    assert not reseal(ward, match, ward.public).done
    document = json.loads(path.read_bytes())
    document["context"][0]["recipients"] = [other.public]
    path.write_text(json.dumps(document))
    assert reseal(ward, match, ward.public).done
    assert ward.item(match).context[0].recipients == (ward.public,)


def test_the_disk_needs_room_for_all_files_of_an_item(
    ward: Ward, match: Match, other: Officer, notes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []

    def refuse(_: object, size: int) -> None:
        asked.append(size)
        raise StateError("no space left")

    monkeypatch.setattr("hashclient.quarantine.reseal.check_space", refuse)
    with pytest.raises(StateError, match="no space left"):
        reseal(ward, match, other.public)
    assert asked == [len(CONTENT) + 180_000] and "resealing" not in ward.events()


@pytest.mark.parametrize("spoil", ["digest", "size"])
def test_a_file_of_an_item_that_is_another_one_is_not_passed_on(
    ward: Ward, match: Match, other: Officer, notes: Path, spoil: str
) -> None:
    path = ward.evidence(match).with_name("item.json")
    document = json.loads(path.read_bytes())
    one = document["context"][0]
    one |= {"evidence_sha256": "0" * 64} if spoil == "digest" else {"size": one["size"] + 1}
    path.write_text(json.dumps(document))
    with pytest.raises(StateError) as refused:
        reseal(ward, match, other.public)
    copy = ward.evidence(match).with_name("evidence.1.age")
    said = f"the sealed copy is not the file that was sealed: {copy}"
    assert refused.value.message == said
    assert (refused.value.hint or "").endswith("it was left as it is")
    assert opened(copy, ward.key) == notes.read_bytes() and ward.opened(match) == CONTENT
    assert ward.names() == {match.id}


def test_an_old_copy_that_cannot_be_removed_is_named(
    ward: Ward, match: Match, other: Officer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hashclient.quarantine.store.remove_folder", lambda _: None)
    with pytest.raises(StateError) as failed:
        reseal(ward, match, other.public)
    assert failed.value.message.startswith(
        f"{match.id} is sealed again, but the old copy cannot be removed: "
    )
    assert "its recipients still can open it" in (failed.value.hint or "")
    assert other.opens(ward, match) == CONTENT
    monkeypatch.undo()
    ward.hold(match)  # the next action removes the folder that was left
    assert ward.names() == {match.id}
