"""Members of containers: found, shown with their path, remembered, acted upon, or unread."""

from __future__ import annotations

import io
import json
import shutil
import struct
import subprocess
import tarfile
import zipfile
from collections.abc import Mapping
from email import message_from_bytes
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import pytest
from pyrage import x25519

from hashclient.containers import libarchive
from tests.kit import Run, csv_of, digests_of, make_state, measured, run, write_tree

LISTED = b"a listed file of some length"
BENIGN = b"a benign file"


def zip_of(files: Mapping[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return out.getvalue()


def tar_of(files: Mapping[str, bytes], mode: str = "w") -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode=mode) as archive:  # type: ignore[call-overload]
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return out.getvalue()


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return make_state(tmp_path / "site", {"base": csv_of({"e-1": LISTED}, sized=False)})


def scan(state: Path, *args: object, stdin: bytes = b"", cwd: Path | None = None) -> Run:
    command = ("--state-dir", state, "scan", "--format", "jsonl")
    return run(*command, *args, stdin=stdin, cwd=cwd)


NESTED = zip_of({"a": BENIGN, "in/b.tgz": tar_of({"deep!/x": LISTED, "y": BENIGN}, "w:gz")})


@pytest.mark.slow
def test_a_listed_file_in_an_archive_in_an_archive_is_a_match(state: Path, tmp_path: Path) -> None:
    tree = write_tree(tmp_path / "t", {"o.zip": NESTED, "plain": BENIGN})
    result = scan(state, ".", cwd=tree)
    (line, summary) = result.lines
    assert result.code == 10
    assert line["path"] == "./o.zip!/in/b.tgz!/b.tar!/deep!!/x"
    assert line["members"] == ["in/b.tgz", "b.tar", "deep!/x"]
    assert (line["container"], line["entry"], line["size"]) == ("./o.zip", "e-1", len(LISTED))
    assert (summary["inputs"], summary["members"], summary["members_read"]) == (7, 5, 5)
    assert summary["opens_containers"] is True


@pytest.mark.slow
def test_a_match_is_remembered_under_the_file_that_can_be_taken_away(
    state: Path, tmp_path: Path
) -> None:
    tree = write_tree(tmp_path / "t", {"o.zip": NESTED})
    (line, _) = scan(state, tree).lines
    (match, *_) = run("--state-dir", state, "matches", "--format", "jsonl").lines
    assert (match["id"], match["path"]) == (line["id"], str(tree / "o.zip"))
    assert match["size"] == len(NESTED)
    shown = run("--state-dir", state, "matches", "show", line["id"]).out
    assert "deep!/x" in shown
    (again, _) = scan(state, tree).lines
    assert again["id"] == line["id"]
    log = [json.loads(text) for text in (state / "audit" / "log.jsonl").read_text().splitlines()]
    (logged,) = {
        tuple(record["data"]["members"]) for record in log if record.get("event") == "match"
    }
    assert logged == ("in/b.tgz", "b.tar", "deep!/x")


@pytest.mark.slow
def test_a_member_of_which_one_digest_agrees_is_a_conflict(tmp_path: Path) -> None:
    """The member's other digests are computed, even if entries of all sizes need the same one."""
    md5, _, sha256 = digests_of(b"another file")
    sha1 = digests_of(LISTED)[1]  # SHA-1 is the digest that is computed first
    rows = f"entry_id,md5,sha1,sha256,category\ne-1,{md5},{sha1},{sha256},synthetic\n"
    state = make_state(tmp_path / "site", {"base": rows.encode()})
    (tmp_path / "a.zip").write_bytes(zip_of({"x": LISTED}))
    result = scan(state, tmp_path / "a.zip")
    assert (result.code, result.summary["conflict"], result.summary["match"]) == (3, 1, 0)


def with_recipient(state: Path, *lines: str) -> None:
    recipient = x25519.Identity.generate().to_public()
    with (state / "config.toml").open("a") as config:
        config.write("\n".join(["[quarantine]", f'recipients = ["{recipient}"]', *lines, ""]))


@pytest.mark.slow
def test_the_container_is_taken_away_and_what_goes_with_it_is_said(
    state: Path, tmp_path: Path
) -> None:
    with_recipient(state)
    tree = write_tree(tmp_path / "t", {"o.zip": NESTED, "b": BENIGN})
    (line, _) = scan(state, "--quarantine", tree).lines
    assert not (tree / "o.zip").exists()
    assert line["actions"][0]["done"] is True
    assert "the container, with 4 other members" in line["actions"][0]["detail"]
    assert run("--state-dir", state, "quarantine", "verify").code == 0


@pytest.mark.slow
def test_a_container_is_not_taken_away_where_that_is_forbidden(state: Path, tmp_path: Path) -> None:
    with_recipient(state, "isolate_containers = false")
    tree = write_tree(tmp_path / "t", {"o.zip": NESTED, "l": LISTED})
    result = scan(state, "--quarantine", tree)
    assert (tree / "o.zip").exists()
    assert not (tree / "l").exists()
    assert result.code == 11


@pytest.mark.slow
def test_members_can_be_left_out_and_the_summary_says_so(state: Path, tmp_path: Path) -> None:
    tree = write_tree(tmp_path / "t", {"o.zip": NESTED})
    result = run("--state-dir", state, "scan", "--no-members", tree)
    assert result.code == 0
    assert "archives and mail were not opened: --no-members\n" in result.out


@pytest.mark.slow
@pytest.mark.parametrize("jobs", [1, 2])
def test_worker_processes_open_containers_too(state: Path, tmp_path: Path, jobs: int) -> None:
    files = {f"d{n}/x.zip": zip_of({"m": b"%d" % n, "n": BENIGN}) for n in range(1_000)}
    files["d500/x.zip"] = NESTED
    tree = write_tree(tmp_path / "t", files)
    result = scan(state, "--jobs", jobs, tree)
    *lines, summary = result.lines
    assert [line["members"][-1] for line in lines] == ["deep!/x"]
    assert (summary["inputs"], summary["members"]) == (1_000 + 999 * 2 + 5, 999 * 2 + 5)


@pytest.mark.slow
@pytest.mark.parametrize(
    "prefix",
    [b"", b"#!/bin/sh\n", b"\xff\xd8\xff" + bytes(300_000), b"x", b"key: value\n" * 90],
    ids=["nothing", "script", "picture", "letter", "text with colons"],
)
def test_an_archive_is_opened_behind_something_else(
    state: Path, tmp_path: Path, prefix: bytes
) -> None:
    tree = write_tree(tmp_path / "t", {"o": prefix + zip_of({"x": LISTED})})
    assert scan(state, tree).code == 10


@pytest.mark.slow
def test_a_stream_is_opened(state: Path) -> None:
    result = scan(state, "--stdin-name", "up", "-", stdin=NESTED)
    assert result.outcomes == {"up!/in/b.tgz!/b.tar!/deep!!/x": "match"}
    (match, *_) = run("--state-dir", state, "matches", "--format", "jsonl").lines
    assert match["path"] == "stdin:up"


def damaged(data: bytes) -> bytes:
    """Return an archive whose second member is broken."""
    middle = data.index(b"broken") + len(b"broken") + 5
    return data[:middle] + b"\xff\xff" + data[middle + 2 :]


BROKEN = damaged(zip_of({"broken": LISTED * 40, "whole": BENIGN}))


@pytest.mark.slow
def test_a_broken_member_is_unread_and_never_clean(state: Path, tmp_path: Path) -> None:
    tree = write_tree(tmp_path / "t", {"o.zip": BROKEN})
    result = scan(state, tree)
    (line, summary) = result.lines
    assert (result.code, line["type"], line["members"]) == (3, "unread", ["broken"])
    assert line["reason"].startswith("damaged: ")
    # The bytes of the broken member up to the error count as another input.
    assert (summary["inputs"], summary["unread"], summary["clean"]) == (4, 1, 3)


def accepted(state: Path, **rule: str) -> None:
    with (state / "config.toml").open("a") as config:
        config.write("[[scan.accept]]\n")
        for key, value in rule.items():
            config.write(f"{key} = {value if key == 'until' else json.dumps(value)}\n")


@pytest.mark.slow
def test_an_accepted_member_is_counted_apart_and_logged(state: Path, tmp_path: Path) -> None:
    tree = write_tree(tmp_path / "t", {"o.zip": BROKEN})
    accepted(state, path="*/o.zip!/broken", reason="damaged", until="2999-01-01")
    result = scan(state, tree)
    (line, summary) = result.lines
    assert (result.code, line["type"], summary["accepted"]) == (0, "accepted", 1)
    assert line["reason"].startswith("accepted until 2999-01-01: damaged: ")
    assert '"event":"accepted"' in (state / "audit" / "log.jsonl").read_text().replace(" ", "")


@pytest.mark.slow
@pytest.mark.parametrize(
    "change", [{"until": "2020-01-01"}, {"reason": "encrypted"}, {"path": "*/other.zip!/*"}]
)
def test_other_unread_members_are_not_accepted(
    state: Path, tmp_path: Path, change: Mapping[str, str]
) -> None:
    tree = write_tree(tmp_path / "t", {"o.zip": BROKEN})
    rule = {"path": "*/o.zip!/*", "reason": "damaged", "until": "2999-01-01"}
    accepted(state, **{**rule, **change})
    assert scan(state, tree).code == 3


@pytest.mark.slow
def test_a_match_is_not_accepted(state: Path, tmp_path: Path) -> None:
    tree = write_tree(tmp_path / "t", {"o.zip": NESTED})
    accepted(state, path="*", reason="damaged", until="2999-01-01")
    assert scan(state, tree).code == 10


def lying(size: int) -> bytes:
    """Return a zip that claims another size for its only member, in both headers."""
    data = bytearray(zip_of({"x": LISTED}))
    struct.pack_into("<I", data, 22, size)
    struct.pack_into("<I", data, data.index(b"PK\x01\x02") + 24, size)
    return bytes(data)


@pytest.fixture
def sized(tmp_path: Path) -> Path:
    return make_state(tmp_path / "sized", {"base": csv_of({"e-1": LISTED})})


@pytest.mark.slow
def test_a_claimed_size_rules_out_and_is_counted(sized: Path, tmp_path: Path) -> None:
    tree = write_tree(tmp_path / "t", {"o.zip": zip_of({"x": BENIGN, "y": b""})})
    result = scan(sized, tree)
    (summary,) = result.lines
    assert (result.code, summary["ruled_out_by_claim"] + summary["ruled_out_by_size"]) == (0, 3)
    result = run("--state-dir", sized, "scan", tree)
    assert "ruled out by a claimed size" in result.out
    (summary,) = scan(sized, "--verify-sizes", tree).lines
    assert (summary["ruled_out_by_claim"], summary["members_read"]) == (0, 2)


@pytest.mark.slow
def test_a_size_that_lies_is_found_out_where_sizes_are_verified(
    sized: Path, tmp_path: Path
) -> None:
    tree = write_tree(tmp_path / "t", {"o.zip": lying(len(LISTED) - 1)})
    assert scan(sized, tree).lines[-1]["ruled_out_by_claim"] == 1
    assert scan(sized, "--verify-sizes", tree).code in (3, 10)


@pytest.mark.slow
def test_a_listed_container_is_a_match_besides(tmp_path: Path) -> None:
    entries = {"e-1": LISTED, "e-zip": NESTED}
    state = make_state(tmp_path / "site", {"base": csv_of(entries)})
    tree = write_tree(tmp_path / "t", {"o.zip": NESTED})
    lines = scan(state, tree).lines[:-1]
    assert {line["entry"]: line.get("members") for line in lines} == {
        "e-1": ["in/b.tgz", "b.tar", "deep!/x"],
        "e-zip": None,
    }
    assert len({line["id"] for line in lines}) == 1


@pytest.mark.slow
def test_every_size_rule_still_looks_inside(sized: Path, tmp_path: Path) -> None:
    """The container is opened although no entry has its size."""
    tree = write_tree(tmp_path / "t", {"o.zip": NESTED, "b": BENIGN})
    result = scan(sized, tree)
    assert (result.code, len(result.outcomes)) == (10, 1)


@pytest.mark.slow
def test_an_unchanged_file_is_not_looked_at_again(
    sized: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = write_tree(tmp_path / "t", {"o.zip": NESTED, "b": BENIGN, "c": LISTED[:-1]})
    assert scan(sized, tree).code == 10
    assert scan(sized, tree).code == 10


def limits(state: Path, **values: Any) -> None:
    with (state / "config.toml").open("a") as config:
        config.write("[scan.containers]\n")
        for key, value in values.items():
            config.write(f"{key} = {json.dumps(value)}\n")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("limit", "word"),
    [
        ({"depth": 1}, "containers deep"),
        ({"members": 2}, "members"),
        ({"bytes_out": 10}, "bytes come out"),
    ],
)
def test_a_limit_that_is_met_is_unread(
    state: Path, tmp_path: Path, limit: Mapping[str, int], word: str
) -> None:
    limits(state, **limit)
    data = zip_of({"x": BENIGN, "y": zip_of({"z": BENIGN, "w": BENIGN})})
    tree = write_tree(tmp_path / "t", {"o.zip": data, "b": BENIGN})
    result = scan(state, tree)
    assert result.code == 3
    reasons = [line["reason"] for line in result.lines[:-1]]
    assert all(reason.startswith("limit: ") for reason in reasons)
    assert any(word in reason for reason in reasons)


@pytest.mark.slow
def test_a_sandbox_that_is_required_and_there_changes_nothing(state: Path, tmp_path: Path) -> None:
    from hashclient.containers.sandbox import kernel_locks

    limits(state, sandbox="require")
    tree = write_tree(tmp_path / "t", {"o.zip": NESTED})
    assert scan(state, tree).code == (10 if kernel_locks().are_whole else 3)


needs_bsdtar = pytest.mark.skipif(
    shutil.which("bsdtar") is None or not libarchive.is_here(), reason="libarchive is not here"
)


@pytest.mark.slow
@needs_bsdtar
@pytest.mark.parametrize("kind", ["7zip", "cpio", "ar", "iso9660", "xar"])
def test_an_archive_that_libarchive_reads_is_opened(state: Path, tmp_path: Path, kind: str) -> None:
    source = write_tree(tmp_path / "s", {"b": BENIGN, "x": LISTED})
    tree = write_tree(tmp_path / "t", {})
    subprocess.run(
        ["bsdtar", "-C", source, "--format", kind, "-cf", tree / "o", "b", "x"], check=True
    )
    result = scan(state, tree)
    assert result.code == 10
    assert [line["members"] for line in result.lines[:-1]] == [["x"]]


@pytest.mark.slow
def test_names_of_any_bytes_are_shown(state: Path, tmp_path: Path) -> None:
    name = "a\udcff\n\x01b"
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.GNU_FORMAT) as archive:
        member = tarfile.TarInfo(name)
        member.size = len(LISTED)
        archive.addfile(member, io.BytesIO(LISTED))
    tree = write_tree(tmp_path / "t", {"o.tar": out.getvalue()})
    (line, _) = scan(state, tree).lines
    assert "members_b64" in line
    text = run("--state-dir", state, "scan", tree).out
    assert "\\xff\\x0a\\x01" in text


@pytest.mark.slow
@needs_bsdtar
@pytest.mark.parametrize("method", ["zipcrypt", "aes256"])
def test_passwords_that_are_known_are_tried(state: Path, tmp_path: Path, method: str) -> None:
    source = write_tree(tmp_path / "s", {"b": BENIGN, "x": LISTED})
    tree = write_tree(tmp_path / "t", {})
    subprocess.run(
        [
            *("bsdtar", "-C", source, "--format", "zip", "--options", f"zip:encryption={method}"),
            *("--passphrase", "open sesame", "-cf", tree / "o.zip", "b", "x"),
        ],
        check=True,
    )
    result = scan(state, tree)
    assert result.code == 3
    assert {line["reason"].split(":")[0] for line in result.lines[:-1]} == {"encrypted"}
    words = tmp_path / "words"
    words.write_bytes(b"wrong\nopen sesame\n")
    result = scan(state, "--passwords-file", words, tree)
    assert (result.code, [line["members"] for line in result.lines[:-1]]) == (10, [["x"]])
    words.write_bytes(b"wrong\n")
    assert scan(state, "--passwords-file", words, tree).code == 3


def test_a_file_of_passwords_that_is_not_there(state: Path, tmp_path: Path) -> None:
    tree = write_tree(tmp_path / "t", {"b": BENIGN})
    assert scan(state, "--passwords-file", tmp_path / "none", tree).code == 2


@pytest.mark.slow
def test_without_libarchive_what_needs_it_is_unread(state: Path, tmp_path: Path) -> None:
    """The dynamic loader finds an invalid file before the real libarchive."""
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / libarchive.LIBRARY).write_bytes(b"no library")
    tree = write_tree(tmp_path / "t", {"a.lz": b"LZIP\x01\x0c" + bytes(26)})
    result = run(
        *("--state-dir", state, "scan", "--format", "jsonl", tree),
        env={"LD_LIBRARY_PATH": str(tmp_path / "lib")},
    )
    assert result.code == 3
    (line, _) = result.lines
    assert line["reason"] == libarchive.MISSING
    assert "libarchive13" in line["reason"]


@pytest.mark.slow
def test_mail_is_opened(state: Path, tmp_path: Path) -> None:
    mail = EmailMessage()
    mail["From"], mail["To"], mail["Subject"] = "a@example.org", "b@example.org", "x"
    mail.set_content("hello")
    mail.add_attachment(
        zip_of({"x": LISTED}), maintype="application", subtype="zip", filename="a.zip"
    )
    tree = write_tree(tmp_path / "t", {"m": mail.as_bytes()})
    result = scan(state, tree)
    assert (result.code, result.lines[0]["members"]) == (10, ["a.zip", "x"])
    said = {"sender": "a@example.org", "recipients": ["b@example.org"]}
    assert result.lines[0]["mail"] == said
    for _ in range(2):  # a second scan of the same file records the same mail
        assert scan(state, tree).code == 10
        shown = run("--state-dir", state, "matches", "show", result.lines[0]["id"]).out
        assert shown.count("mail: a@example.org b@example.org") == 1


@pytest.mark.slow
def test_the_record_says_which_mail_of_a_mailbox_or_an_archive_it_was(
    state: Path, tmp_path: Path
) -> None:
    """The record has the outermost mail, which a mail server knows, and not an attached mail."""

    def mail(number: int, inner: bytes) -> bytes:
        letter = EmailMessage()
        letter["From"], letter["To"] = f"a{number}@example.org", f"b{number}@example.org"
        letter["Message-ID"] = f"<{number}@example.org>"
        letter.set_content("hello")
        letter.add_attachment(inner, maintype="application", subtype="octet-stream", filename="a")
        return letter.as_bytes()

    line = b"From x@example.org Mon Jan  1 00:00:00 2024\n"
    outer = EmailMessage()
    outer["From"], outer["To"], outer["Message-ID"] = "o@example.org", "p@example.org", "<o@x.org>"
    outer.add_attachment(message_from_bytes(mail(4, LISTED)))
    write_tree(
        tmp_path / "t",
        {
            "box": b"\n".join(line + mail(n, LISTED if n != 2 else b"other") for n in (1, 2, 3)),
            "mails.zip": zip_of({"one.eml": mail(5, LISTED), "two": LISTED}),
            "forwarded.zip": zip_of({"f.eml": outer.as_bytes()}),
            "twice.zip": zip_of({"a.eml": mail(6, LISTED), "b.eml": mail(7, LISTED)}).replace(
                b"b.eml", b"a.eml"
            ),
        },
    )
    found = scan(state, tmp_path / "t").lines[:-1]
    ids = [
        (
            *(Path(line["path"].split("!/")[0]).name, line["members"][0]),
            line.get("mail", {}).get("message_id", ""),
        )
        for line in found
    ]
    assert sorted(ids) == [
        *[("box", "a", "")] * 2,  # some programs read a mailbox as one mail
        ("box", "message-1", "1@example.org"),
        ("box", "message-3", "3@example.org"),
        ("forwarded.zip", "f.eml", "o@x.org"),
        ("mails.zip", "one.eml", "5@example.org"),
        ("mails.zip", "two", ""),
        ("twice.zip", "a.eml", "6@example.org"),
        ("twice.zip", "a.eml", "7@example.org"),
    ]
    shown = run("--state-dir", state, "matches", "show", found[0]["id"]).out
    assert "@example.org" in shown


@pytest.mark.slow
def test_a_report_names_the_member_and_the_file_that_holds_it_is_the_evidence(
    state: Path, tmp_path: Path
) -> None:
    box = tmp_path / "box"
    box.mkdir()
    with_recipient(state)
    with (state / "config.toml").open("a") as config:
        config.write(f'[report.to.body]\nkind = "package"\ndirectory = "{box}"\n')
    tree = write_tree(tmp_path / "t", {"o.zip": NESTED})
    (line, _) = scan(state, "--quarantine", tree).lines
    made = run("--state-dir", state, "report", "prepare", line["id"], "--to", "body")
    assert made.code == 0, made.err
    done = run("--state-dir", state, "report", "submit", "--all")
    assert done.code == 0, done.err
    (package,) = box.iterdir()
    (document,) = package.glob("**/document.json")
    (match,) = json.loads(document.read_text())["matches"]
    assert (match["path"], match["size"]) == (str(tree / "o.zip"), len(NESTED))
    (step,) = [step for step in match["story"] if step["event"] == "in-member"]
    assert step["detail"]["members"] == ["in/b.tgz", "b.tar", "deep!/x"]
    assert match["evidence"] is not None
    assert len(list(package.glob("**/evidence/*.age"))) == 1


@pytest.mark.slow
def test_after_many_matches_an_archive_of_a_size_of_no_entry_is_opened_all_the_same(
    tmp_path: Path,
) -> None:
    """If most files of a directory must be read, files are opened without a `stat` before."""
    contents = {f"e-{n:04d}": b"listed %06d" % n for n in range(1100)}
    state = make_state(tmp_path / "site", {"base": csv_of(contents)})
    tree = write_tree(tmp_path / "t", {f"a/{n:04d}": b"listed %06d" % n for n in range(1100)})
    write_tree(tree / "b", {"x.zip": zip_of({"in": b"listed 000007"}), "plain": b"no such size!!"})
    result = scan(state, "--no-inventory", "--jobs", "1", tree)
    assert result.code == 10
    found = [line for line in result.lines if line["type"] == "match"]
    assert len(found) == 1101
    assert [line["path"] for line in found if "members" in line] == [f"{tree}/b/x.zip!/in"]
    summary = result.summary
    assert (summary["inputs"], summary["clean"], summary["unread"]) == (1103, 2, 0)
    assert summary["ruled_out_by_size"] == 2


@pytest.mark.slow
def test_listed_members_of_many_archives_take_no_more_memory_than_those_of_few(
    state: Path, tmp_path: Path
) -> None:
    data = zip_of({str(number): LISTED for number in range(5_000)}, zipfile.ZIP_STORED)
    peaks_kb = []
    for count in (2, 12):
        tree = write_tree(tmp_path / str(count), {f"{n}.zip": data for n in range(count)})
        command = ("--state-dir", state, "scan", "--format", "jsonl", tree)
        found, _, peak_kb = measured(*command)
        assert (found.code, found.summary["match"]) == (10, count * 5_000)
        peaks_kb.append(peak_kb)
    # The peaks differed by 60 MiB in versions that kept all outcomes of a directory in memory.
    assert peaks_kb[1] - peaks_kb[0] < 40 << 10
