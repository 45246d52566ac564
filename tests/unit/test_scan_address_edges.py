"""The addresses of clusters: their forms and limits, and the certificates that they need."""

from __future__ import annotations

from pathlib import Path

import pytest

from hashclient.config.tables import ClusterConfig
from hashclient.core.errors import ConfigError, UsageError
from hashclient.scan.cluster.address import (
    DEFAULT_PORT,
    MOST_WORKERS,
    LocalCluster,
    Scheduler,
    Tls,
    parse_executor,
    problem_with_worker,
)

NONE = ClusterConfig()
FORMS = "an executor is `processes`, `local-cluster:N` or `dask://HOST:PORT`"


@pytest.fixture
def given(tmp_path: Path) -> dict[str, str]:
    for name in ("ca", "cert", "key"):
        (tmp_path / name).write_text(name)
        (tmp_path / name).chmod(0o600)
    return {name: str(tmp_path / name) for name in ("ca", "cert", "key")}


@pytest.mark.parametrize("number", [1, 2, 255, 256])
def test_a_local_cluster_has_up_to_256_workers(number: int) -> None:
    assert parse_executor(f"local-cluster:{number}", NONE) == LocalCluster(number)
    assert (MOST_WORKERS, DEFAULT_PORT) == (256, 8786)


@pytest.mark.parametrize(("number", "shown"), [("0", "0"), ("257", "257"), ("9" * 21, "9" * 20)])
def test_other_numbers_of_workers_are_refused(number: str, shown: str) -> None:
    with pytest.raises(UsageError) as refused:
        parse_executor(f"local-cluster:{number}", NONE)
    assert refused.value.message == f"a local cluster has from 1 to 256 workers: {shown}"


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("dask://127.0.0.1", "127.0.0.1", 8786),
        ("dask://127.0.0.1/", "127.0.0.1", 8786),
        ("dask://127.0.0.1:1", "127.0.0.1", 1),
        ("dask://127.0.0.1:65535/", "127.0.0.1", 65_535),
        ("dask://localhost:00080", "localhost", 80),
        ("dask://LOCALHOST", "LOCALHOST", 8786),
        ("dask://127.255.255.254:2", "127.255.255.254", 2),
        ("dask://[::1]", "[::1]", 8786),
        ("dask://[::1]:5", "[::1]", 5),
    ],
)
def test_a_scheduler_of_this_machine_needs_no_certificates(text: str, host: str, port: int) -> None:
    found = parse_executor(text, NONE)
    assert found == Scheduler(host, port)
    assert isinstance(found, Scheduler)
    assert found.url == f"tcp://{host}:{port}"


@pytest.mark.parametrize("host", ["h", "a" * 253, "a.b-c.example", "9"])
def test_a_scheduler_elsewhere_is_reached_with_certificates(
    given: dict[str, str], host: str
) -> None:
    found = parse_executor(f"dask://{host}", ClusterConfig(**given))
    tls = Tls(*(Path(given[name]) for name in ("ca", "cert", "key")))
    assert found == Scheduler(host, 8786, tls)
    assert isinstance(found, Scheduler)
    assert found.url == f"tls://{host}:8786"
    with pytest.raises(ConfigError) as refused:
        parse_executor(f"dask://{host}", NONE)
    assert refused.value.message.endswith(f"needs TLS and a client certificate: {host}")


@pytest.mark.parametrize(
    "text",
    [
        *("dask://" + "a" * 254, "dask://h:000080", "dask://h:", "dask://h:0", "dask://h:65536"),
        *("dask://[::1", "dask://::1", "dask://[h]", "dask://.h", "dask://h//", "Dask://h"),
        *("local-cluster:", "local-cluster:1 ", "local-cluster:-1", "local-cluster:1:1", "x" * 300),
    ],
)
def test_what_has_another_form_is_no_executor(given: dict[str, str], text: str) -> None:
    for config in (NONE, ClusterConfig(**given)):
        with pytest.raises(UsageError) as refused:
            parse_executor(text, config)
        assert refused.value.message == f"not an executor: {text[:200]}"
        assert refused.value.hint == FORMS


@pytest.mark.parametrize(
    ("names", "lacks"),
    [
        ("ca", "cert and key"),
        ("cert", "ca and key"),
        ("key", "ca and cert"),
        ("ca cert", "key"),
        ("ca key", "cert"),
        ("cert key", "ca"),
    ],
)
def test_certificates_are_given_together(given: dict[str, str], names: str, lacks: str) -> None:
    config = ClusterConfig(**{name: given[name] for name in names.split()})
    with pytest.raises(ConfigError) as refused:
        parse_executor("dask://127.0.0.1", config)
    assert refused.value.message == f"[cluster] lacks {lacks}"


@pytest.mark.parametrize(
    ("name", "mode", "is_used"),
    [
        *(("key", 0o600, True), ("key", 0o400, True), ("key", 0o644, False)),
        *(("cert", 0o644, True), ("cert", 0o664, False), ("cert", 0o646, False)),
        *(("ca", 0o644, True), ("ca", 0o664, False), ("ca", 0o602, False)),
    ],
)
def test_a_key_is_read_by_its_owner_only_and_a_certificate_written_by_its_owner_only(
    given: dict[str, str], name: str, mode: int, is_used: bool
) -> None:
    Path(given[name]).chmod(mode)
    if is_used:
        assert parse_executor("dask://127.0.0.1", ClusterConfig(**given)) is not None
        return
    with pytest.raises(ConfigError, match=name):
        parse_executor("dask://127.0.0.1", ClusterConfig(**given))


@pytest.mark.parametrize("name", ["ca", "cert", "key"])
def test_certificates_that_are_missing_are_noticed_before_anything_starts(
    given: dict[str, str], name: str
) -> None:
    Path(given[name]).unlink()
    with pytest.raises(ConfigError, match="of the cluster"):
        parse_executor("dask://127.0.0.1", ClusterConfig(**given))


@pytest.mark.parametrize(
    ("address", "is_used"),
    [
        ("tls://10.0.0.1:1", True),
        ("tls://", True),
        ("tcp://127.0.0.1:1", True),
        ("tcp://[::1]:1", True),
        ("tcp://localhost:1", True),
        ("tcp://127.0.0.1", False),
        ("tcp://10.0.0.1:1", False),
        ("tcp://[::2]:1", False),
        ("ws://127.0.0.1:1", False),
        ("127.0.0.1:1", False),
        ("tlsx://10.0.0.1:1", False),
    ],
)
def test_a_worker_is_reached_by_tls_or_on_this_machine(address: str, is_used: bool) -> None:
    assert problem_with_worker(address) == (None if is_used else "it is reached without TLS")
