"""The operations guide: every key of the configuration, every variable, every exit code."""

from __future__ import annotations

import grp
import gzip
import os
import pwd
import re
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path

import click
import msgspec
import pytest
from pyrage import x25519
from ruamel.yaml import YAML

from hashclient.cli.defaults import OTHER_VARIABLES
from hashclient.cli.main import COMMANDS, cli
from hashclient.cli.options import option_variables
from hashclient.config.settings import COMMAND_TABLES, Config, parse_config, resolve_settings
from hashclient.config.tables import (
    AcceptRule,
    AlertsConfig,
    BrakeConfig,
    ClusterConfig,
    ContainersConfig,
    DecisionsConfig,
    FactsConfig,
    FleetConfig,
    InventoryConfig,
    KeepConfig,
    MirrorConfig,
    NoticesConfig,
    OAuthConfig,
    ObjectsConfig,
    PackageDestination,
    PolicyRule,
    ProviderConfig,
    QuarantineConfig,
    ReportConfig,
    ServiceDestination,
)
from hashclient.containers import unopened
from hashclient.containers.kinds import OPENED
from hashclient.core.errors import ExitCode
from hashclient.core.kinds import COMES_FROM, REVIEW_REASONS, MatchState, Verdict
from hashclient.core.match import BESIDE_STATE
from hashclient.index.blinding import KEY_CREDENTIAL
from hashclient.quarantine.age import EXAMPLE_RECIPIENT
from hashclient.status.prometheus import render
from tests.docs.blocks import (
    DOCS,
    DOCUMENTS,
    OPERATIONS,
    marked_blocks,
    run_command,
    run_script,
    table_rows,
    text_of,
)
from tests.docs.commands import check_invocation, invocations
from tests.kit import Site, csv_of, write_tree
from tests.kit.context import context_of
from tests.unit.test_prometheus import full

pytestmark = pytest.mark.docs

METRICS = "## Metrics"
#: The most words of a page without its examples. The reference of keys may be longer.
WORDS_OF_A_PAGE = 700
REFERENCE = DOCS / "operations" / "configuration.md"
#: The destination that the `[[policy]]` tables of the examples refer to.
MEANT = '[report.to.police]\nkind = "package"\ndirectory = "/srv"\n'
#: A public key whose secret key was dropped.
RECIPIENT = x25519.Identity.generate().to_public()
FORCE = ("--force", "--reason", "a test")
COMMAND_VARIABLE = f"HASHCLIENT_({'|'.join(COMMANDS)})_".upper()


@pytest.mark.parametrize("page", OPERATIONS, ids=lambda page: page.stem)
def test_a_page_is_short(page: Path) -> None:
    text = re.sub(r"^```.*?^```$|<!--.*?-->", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    words = len(text.replace("|", " ").split())
    assert words < WORDS_OF_A_PAGE or page == REFERENCE, words


def test_the_first_page_leads_to_each_and_each_answers_a_question() -> None:
    first, *pages = OPERATIONS
    linked = re.findall(r"\]\((operations/[\w-]+\.md)[)#]", first.read_text())
    assert {DOCS / link for link in linked} == set(pages)
    titles = [page.read_text().partition("\n")[0] for page in pages]
    assert all(re.fullmatch(r"# .+\?", title) for title in titles)


def options(command: click.Command, context: click.Context) -> Iterator[click.Option]:
    yield from (p for p in command.params if isinstance(p, click.Option) and not p.hidden)
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            child = command.get_command(context, name)
            assert child is not None
            yield from options(child, context)


def variables() -> set[str]:
    """Return the names of all environment variables that the program reads."""
    found = options(cli, context_of(cli))
    return {*OTHER_VARIABLES, *(name for option in found for name in option_variables(option))}


@pytest.mark.parametrize(
    ("heading", "struct", "others"),
    [
        (
            "## At the top",
            Config,
            {
                "brake",
                "decisions",
                "providers",
                "policy",
                "quarantine",
                "inventory",
                "report",
                "keep",
                "notices",
                "fleet",
                "alerts",
                "containers",
                "accept",
                "objects",
                "cluster",
                "commands",
                "notes",
            },
        ),
        ("## `[providers.NAME]`", ProviderConfig, set()),
        ("## `[[providers.NAME.mirrors]]`", MirrorConfig, set()),
        ("## `[providers.NAME.oauth]`", OAuthConfig, set()),
        ("## `[[policy]]`", PolicyRule, set()),
        ("## `[brake]`", BrakeConfig, set()),
        ("## `[decisions]`", DecisionsConfig, set()),
        ("## `[quarantine]`", QuarantineConfig, set()),
        ("## `[scan.containers]`", ContainersConfig, set()),
        ("## `[[scan.accept]]`", AcceptRule, set()),
        ('## `[objects."URI"]`', ObjectsConfig, set()),
        ("## `[inventory]`", InventoryConfig, set()),
        ("## `[keep]`", KeepConfig, set()),
        ("## `[cluster]`", ClusterConfig, set()),
        ("## `[fleet]`", FleetConfig, set()),
        ("## `[notices]`", NoticesConfig, set()),
        ("## `[alerts]`", AlertsConfig, set()),
        ("## `[report]`", ReportConfig, {"facts", "to"}),
        ("## `[report.facts]`", FactsConfig, set()),
        ('## `[report.to.NAME]` with `kind = "package"`', PackageDestination, set()),
        ('## `[report.to.NAME]` with `kind = "cybertipline"`', ServiceDestination, set()),
    ],
)
def test_every_key_is_described(
    heading: str, struct: type[msgspec.Struct], others: set[str]
) -> None:
    rows = table_rows(OPERATIONS, heading)
    described = [key for row in rows for key in re.findall("`([a-z0-9_]+)`", row[0])]
    assert sorted(described) == sorted(set(struct.__struct_fields__) - others)


def test_the_recipes_for_mail_choose_how_long_a_list_counts_past_its_expiry() -> None:
    (text,) = marked_blocks(DOCS / "daemon.md", "grace")
    assert parse_config(text, "config.toml").providers["main"].grace_hours == 72


def test_the_example_is_a_configuration(tmp_path: Path) -> None:
    (text,) = marked_blocks(OPERATIONS, "config")
    path = tmp_path / "config.toml"
    path.write_text(text)
    settings = resolve_settings(
        state_dir=None,
        config_path=path,
        seal_key_file=None,
        environ={},
    )
    assert settings.state_dir == Path("/var/lib/hashclient")
    assert set(settings.config.commands) == {"scan", "fetch"}
    # A wrong table of the command would be reported before the missing lists.
    words = ("--config", str(path), "--state-dir", str(tmp_path), "scan", "x")
    done = run_command(*words, HASHCLIENT_SEAL_KEY="00" * 32)
    assert done.returncode == ExitCode.STATE, done.stderr


def test_public_keys_in_documents_are_the_example_that_is_refused() -> None:
    found = {key for path in DOCUMENTS for key in re.findall(r"\bage1[a-z0-9]+", path.read_text())}
    assert found == {EXAMPLE_RECIPIENT}


def test_the_example_for_several_versions_is_one() -> None:
    (text,) = marked_blocks(OPERATIONS, "since")
    text += MEANT
    old, new = (parse_config(text, "f", version=v) for v in ("0.2", "0.3"))
    assert (old.commands, old.policy) == ({"scan": {"jobs": 2}}, ())
    assert (new.commands, new.policy) == ({"scan": {"jobs": 4}}, (PolicyRule(("report",)),))


def test_the_commands_with_defaults_are_named() -> None:
    names = ", ".join(f"`[{name}]`" for name in COMMANDS if name in COMMAND_TABLES)
    assert f"## {names}\n" in text_of(OPERATIONS)


def test_variables_are_those_that_are_read() -> None:
    described = set(re.findall(r"\bHASHCLIENT_[A-Z_]+[A-Z]\b", text_of(OPERATIONS)))
    known = variables()
    described -= {"HASHCLIENT_COMPLETE"}
    assert described <= known
    of_the_program = {name for name in known if not re.match(COMMAND_VARIABLE, name)}
    assert of_the_program - {"HASHCLIENT_VERSION"} <= described


def test_where_the_seal_key_is_looked_for() -> None:
    assert KEY_CREDENTIAL in text_of(OPERATIONS)


def test_every_exit_code_has_advice() -> None:
    rows = table_rows(OPERATIONS, "## By exit code")
    codes = [int(code) for row in rows for code in row[0].split(", ")]
    assert codes == [code.value for code in ExitCode if code is not ExitCode.OK]


@pytest.mark.parametrize(
    ("code", "says"),
    [
        (0, "OK: lists are fresh"),
        (1, "CRITICAL: hashclient status ended with 1"),
        (2, "CRITICAL: the configuration is wrong"),
        (3, "WARNING: a notice"),
        (7, "WARNING: a list is stale"),
        (8, "CRITICAL: a list"),
        (9, "CRITICAL: the audit log"),
        (127, "CRITICAL: hashclient status ended with 127"),
    ],
)
def test_the_monitor_says_what_is_wrong(tmp_path: Path, code: int, says: str) -> None:
    (block,) = marked_blocks(OPERATIONS, "monitor")
    ended, output = run_script(f"hashclient() {{ return {code}; }}\n{block}", tmp_path)
    assert output.startswith(says)
    # The exit codes and texts are those of Nagios.
    assert ["OK", "WARNING", "CRITICAL"][ended] == says.partition(":")[0]


def test_every_metric_is_described_and_alerts_use_no_others() -> None:
    described = {
        row[0].strip("`"): re.findall(r"`(\w+)`", row[1]) for row in table_rows(OPERATIONS, METRICS)
    }
    samples = re.findall(r"^(hashclient_\w+)(\{.*\})? ", render(full()), re.MULTILINE)
    labels = {name: re.findall(r'[{,](\w+)="', pairs) for name, pairs in samples}
    assert {n: sorted(of) for n, of in described.items()} == {
        n: sorted(of) for n, of in labels.items()
    }
    (block,) = marked_blocks(OPERATIONS, "alerts")
    (group,) = YAML(typ="safe", pure=True).load(block)["groups"]
    used = [re.findall(r"hashclient_\w+", rule["expr"]) for rule in group["rules"]]
    assert {name for names in used for name in names} <= set(described)
    # Only this alert fires for a machine without any metrics.
    assert "absent(hashclient_build_info)" in {rule["expr"] for rule in group["rules"]}
    states = {s for rule in group["rules"] for s in re.findall(r'state="(\w+)"', rule["expr"])}
    assert states <= set(MatchState)


def test_every_state_of_a_match_is_described() -> None:
    rows = table_rows(OPERATIONS, "## The story of a match")
    assert [row[0].strip("`") for row in rows] == list(MatchState)
    before = {row[0].strip("`"): tuple(re.findall("`([a-z]+)`", row[2])) for row in rows}
    assert before == COMES_FROM
    events = table_rows(OPERATIONS, "## Events beside the states")
    assert [row[0].strip("`") for row in events] == [str(event) for event in BESIDE_STATE]


@pytest.mark.slow
def test_the_page_on_reviews_runs_as_it_stands(
    tmp_path_factory: pytest.TempPathFactory, tmp_path: Path
) -> None:
    page = DOCS / "operations" / "review.md"
    listed = [f"dummy {number}".encode() for number in range(3)]
    write_tree(tmp_path / "files", {f"f{n}": data for n, data in enumerate(listed)})
    (tmp_path / "out").mkdir()
    with Site(tmp_path_factory.mktemp("site")) as site:
        site.publish(csv_of({f"e-{n}": data for n, data in enumerate(listed)}))
        assert site.run(*site.init_arguments()).code == 0
        keys = tmp_path / "officer.key"
        made = site.run("quarantine", "keygen", "--output", keys)
        (recipient,) = {*re.findall(r"\bage1[a-z0-9]+", made.out)}
        (table,) = marked_blocks(page, "review-policy")
        example = parse_config(table, "example").report
        assert (example.after, example.people, example.share) == ("review", 2, 0.1)
        with (site.state / "config.toml").open("a") as config:
            table = table.replace("people = 2\nshare = 0.1\n", "")
            config.write(
                f'{table}[report.to.police]\nkind = "package"\ndirectory = "{tmp_path}/out"\n'
                f'[quarantine]\nrecipients = ["{recipient}"]\n'
                '[[policy]]\nactions = ["report", "quarantine"]\n'
            )
        assert site.run("scan", "--fetch", tmp_path / "files").code == 10
        first, second, _ = (m["id"] for m in site.run("matches", "--format", "jsonl").lines)
        blocks = {n: marked_blocks(page, n)[0] for n in ("review", "reject", "unreviewed", "stats")}
        script = "".join(
            [
                f"set -e\nexport HASHCLIENT_STATE_DIR={shlex.quote(str(site.state))} id={first}\n",
                blocks["review"],
                f"id={second}\n{blocks['reject']}{blocks['unreviewed']}{blocks['stats']}",
            ]
        )
        code, output = run_script(script, tmp_path)
        assert code == 0, output
        assert "  confirmed\n" in output and output.count("handed over: ") == 2
        assert [path.name for path in (tmp_path / "files").iterdir()] != []
        assert (tmp_path / "figures.csv").read_text().startswith("list,category,entry,found,")


def test_every_reason_of_a_review_is_described() -> None:
    page = DOCS / "operations" / "review.md"
    for verdict in Verdict:
        rows = table_rows(page, f"### Words for `--{verdict}`")
        assert tuple(row[0].strip("`") for row in rows) == REVIEW_REASONS[verdict]


def test_the_lines_for_cron_are_commands_with_such_options() -> None:
    (block,) = marked_blocks(OPERATIONS, "cron-d")
    lines = [re.split(r"\s+", line, maxsplit=6) for line in block.splitlines() if "root " in line]
    assert all(fields[5] == "root" for fields in lines)
    commands = [check_invocation(i) for fields in lines for i in invocations(fields[6])]
    assert commands == [
        *("fetch", "status", "scan", "report submit", "status"),
        "quarantine purge",
    ]


@pytest.mark.skipif(shutil.which("logrotate") is None, reason="there is no logrotate")
def test_the_lines_for_logrotate_rotate(tmp_path: Path) -> None:
    (block,) = marked_blocks(OPERATIONS, "logrotate")
    user, group = pwd.getpwuid(os.getuid()).pw_name, grp.getgrgid(os.getgid()).gr_name
    text = block.replace("/var/log/hashclient", str(tmp_path)).replace(
        "su hashclient hashclient", f"su {user} {group}"
    )
    configuration = tmp_path / "logrotate.conf"
    configuration.write_text(text)
    configuration.chmod(0o600)
    (tmp_path / "scan.jsonl").write_text("{}\n")
    code, output = run_script("logrotate --force --state state logrotate.conf", tmp_path)
    assert (code, output) == (0, "")
    (kept,) = tmp_path.glob("scan.jsonl-*.gz")
    assert gzip.decompress(kept.read_bytes()) == b"{}\n"
    assert not (tmp_path / "scan.jsonl").exists()


def test_the_backup_copies_each_part_that_has_to_be_backed_up() -> None:
    rows = table_rows(OPERATIONS, "## What has to be backed up")
    (backup,) = marked_blocks(OPERATIONS, "backup")
    wanted = [
        name.rstrip("/").replace("NAME", "*")
        for what, answer in rows
        if answer.startswith("yes") and "another place" not in answer.partition(";")[0]
        for name in re.findall("`(.+?)`", what)
    ]
    assert {"facts", "fleet"} <= {*wanted}
    assert [name for name in wanted if not re.search(rf"[ .]{re.escape(name)}[ ;]", backup)] == []


PREPARE = """
set -e
hashclient quarantine keygen --output officer.key --format json > pair.json
recipient=$(sed -n 's/.*"\\(age1[a-z0-9]*\\)".*/\\1/p' pair.json)
printf '[quarantine]\\nrecipients = ["%s"]\\n' "$recipient" >> "$HASHCLIENT_STATE_DIR/config.toml"
hashclient fetch
hashclient -q scan --quarantine files || [ $? = 10 ]
"""


@pytest.mark.slow
@pytest.mark.skipif(
    not all(map(shutil.which, ("sqlite3", "flock"))), reason="there is no sqlite3 or no flock"
)
def test_a_backed_up_state_is_restored(
    tmp_path_factory: pytest.TempPathFactory, tmp_path: Path
) -> None:
    (backup,) = marked_blocks(OPERATIONS, "backup")
    (restore,) = marked_blocks(OPERATIONS, "restore")
    listed = b"A dummy file that is on the list."
    files = write_tree(tmp_path / "files", {"listed": listed, "other": b"clean"})
    with Site(tmp_path_factory.mktemp("site")) as site:
        site.publish(csv_of({"e-1": listed}))
        assert site.run(*site.init_arguments()).code == 0
        state = shlex.quote(str(site.state))
        empty = f"mv {state} old; mkdir {state}"
        script = (
            f"export HASHCLIENT_STATE_DIR={state}{PREPARE}{backup}{empty}\necho BACK\n{restore}"
        )
        code, output = run_script(script, tmp_path)
        assert code == 0, output
        told = output.partition("BACK\n")[2]
        assert told.startswith("the audit log is intact\n")
        assert re.search(r"^  checkpoint  holds$", told, re.MULTILINE)
        assert re.search(r"^list baseline: ", told, re.MULTILINE)
        assert re.search(r"^matches +1 quarantined$", told, re.MULTILINE)
        assert re.search(r"^quarantine +1 file, ", told, re.MULTILINE)
        # The isolated file can be restored by anyone who has the key.
        (match,) = site.run("matches", "--format", "jsonl").lines
        key = tmp_path / "officer.key"
        back = site.run("quarantine", "restore", match["id"], "--identity", key, *FORCE)
        assert back.code == 0, back.err
    assert (files / "listed").read_bytes() == listed


def test_an_entry_that_matches_everything_is_held_and_released(
    tmp_path_factory: pytest.TempPathFactory, tmp_path: Path
) -> None:
    (script,) = marked_blocks(OPERATIONS, "brake")
    listed = b"A dummy text that everybody has."
    files = write_tree(tmp_path / "files", {f"copy-{n}": listed for n in range(6)})
    with Site(tmp_path_factory.mktemp("site")) as site:
        site.publish(csv_of({"d-1": listed}))
        assert site.run(*site.init_arguments()).code == 0
        with (site.state / "config.toml").open("a") as config:
            config.write(
                f'[quarantine]\nrecipients = ["{RECIPIENT}"]\n'
                '[brake]\nper_entry = 1\n[[policy]]\nactions = ["quarantine"]\n'
            )
        scanned = site.run("scan", "--fetch", files)
        assert scanned.code == 11
        assert "entry d-1 of baseline matched 6 files: 1 isolated, 5 held" in scanned.out
        state = shlex.quote(str(site.state))
        code, output = run_script(f"export HASHCLIENT_STATE_DIR={state}\n{script}", tmp_path)
        assert code == 0, output
        told = output.splitlines()
        assert sum(line.startswith("held ") for line in told) == 5
        assert sum(line.endswith("  quarantined") for line in told) == 5
        assert not [*files.iterdir()]


@pytest.mark.slow
def test_a_harmless_file_that_matched_is_put_back_and_stays(
    tmp_path_factory: pytest.TempPathFactory, tmp_path: Path
) -> None:
    (script,) = marked_blocks(OPERATIONS, "false-positive")
    listed = b"A dummy file that is harmless."
    files = write_tree(tmp_path / "files", {"listed": listed})
    with Site(tmp_path_factory.mktemp("site")) as site:
        site.publish(csv_of({"d-1": listed}))
        assert site.run(*site.init_arguments()).code == 0
        made = site.run("quarantine", "keygen", "--output", tmp_path / "officer.key")
        recipient = re.search(r"\bage1[a-z0-9]+", made.out)
        assert recipient is not None, made.err
        config = site.state / "config.toml"
        policy = '[[policy]]\nactions = ["quarantine"]\n'
        with config.open("a") as stream:
            stream.write(f'[quarantine]\nrecipients = ["{recipient[0]}"]\n{policy}')
        assert site.run("scan", "--fetch", files).code == 10
        assert not [*files.iterdir()]
        (match,) = site.run("matches", "--format", "jsonl").lines
        state = shlex.quote(str(site.state))
        script = f"set -e\nexport HASHCLIENT_STATE_DIR={state} id={match['id']}\n{script}"
        code, output = run_script(script, tmp_path)
        assert code == 0, output
        # The file is found again, and left in place.
        assert re.search(r"^excepted +files/listed +\[", output, re.MULTILINE)
        assert "none matches besides 1 excepted match" in output
        assert re.search(r"^x-\w+ +until .* baseline/d-1 ", output, re.MULTILINE)
        assert (files / "listed").read_bytes() == listed
        (match,) = site.run("matches", "--format", "jsonl").lines
        assert match["state"] == "excepted"


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_is_there(shell: str) -> None:
    line = f"_HASHCLIENT_COMPLETE={shell}_source hashclient > "
    assert line in text_of(OPERATIONS)
    done = run_command(_HASHCLIENT_COMPLETE=f"{shell}_source")
    assert done.returncode == 0
    assert "hashclient" in done.stdout


def test_completion_knows_commands_and_options() -> None:
    done = run_command(
        _HASHCLIENT_COMPLETE="bash_complete",
        COMP_WORDS="hashclient audit show --for",
        COMP_CWORD="3",
    )
    assert done.stdout == "plain,--format\n"


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """Return a state directory with a provider and a default, and nothing fetched."""
    (tmp_path / "config.toml").write_text(
        '[providers.main]\nurl = "https://127.0.0.1"\nroot_sha256 = ""\n[status]\nformat = "json"\n'
    )
    return tmp_path


@pytest.mark.sampled
@pytest.mark.parametrize(
    ("variables", "options", "shown"),
    [
        ({}, [], "{"),
        ({"HASHCLIENT_STATUS_FORMAT": "text"}, [], "provider main"),
        ({"HASHCLIENT_STATUS_FORMAT": "text"}, ["--format", "json"], "{"),
    ],
    ids=["configuration", "environment", "flag"],
)
def test_a_flag_outranks_the_environment_and_that_the_configuration(
    state: Path, variables: dict[str, str], options: list[str], shown: str
) -> None:
    done = run_command("--state-dir", str(state), "status", *options, **variables)
    assert done.returncode == ExitCode.STATE
    assert done.stdout.startswith(shown)


@pytest.mark.parametrize(
    ("table", "named"),
    [("[scan]\nthreads = 2\n", "known keys: all_digests, "), ("[provider]\n", "'provider'")],
)
def test_an_unknown_key_is_named(tmp_path: Path, table: str, named: str) -> None:
    (tmp_path / "config.toml").write_text(table)
    done = run_command("--state-dir", str(tmp_path), "scan", "x")
    assert done.returncode == ExitCode.USAGE
    assert named in done.stderr


@pytest.mark.slow
def test_init_may_name_a_configuration_that_it_is_to_write(tmp_path: Path) -> None:
    root = tmp_path / "root.json"
    root.write_text("{}")
    where = ("--config", str(tmp_path / "new.toml"), "--state-dir", str(tmp_path / "state"))
    done = run_command(*where, "init", "https://127.0.0.1:9", "--root", str(root))
    assert done.returncode == ExitCode.UNVERIFIED
    assert "not the root metadata" in done.stderr


#: Kinds that have another name in the page.
WORDS = {
    "gzip": "gz",
    "bzip2": "bz2",
    "eml": "mail",
    "form": "forms",
    "message": "mail",
    "7zip": "7z",
    "rar5": "rar",
    "iso9660": "iso images",
    "disk": "images of disks",
    "file-system": "of file systems",
}


def test_the_page_names_each_kind_that_is_opened_and_each_that_is_not() -> None:
    text = " ".join(text_of(OPERATIONS).split())
    opened = text.partition("- **Archives and mail** are opened")[2].partition("Each member")[0]
    closed = text.partition("- **Not opened** are")[2].partition("They are checked")[0]
    for kinds, said in ((OPENED, opened), (unopened.KINDS, closed)):
        for kind in kinds:
            word = re.escape(WORDS.get(kind.name, kind.name))
            assert re.search(rf"(?<![\w-]){word}(?![\w-])", said), kind.name
