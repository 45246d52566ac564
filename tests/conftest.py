"""What all tests share: an environment of their own, and Hypothesis without chance.

Nothing of the caller's environment reaches a test: no home directory, no settings, no proxy, no
umask. Tests that write state pass `--state-dir` or set `XDG_STATE_HOME` themselves.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings

from tests.kit import restored_signals
from tests.kit.depth import count_of, set_depth

if TYPE_CHECKING:
    from tests.kit.cluster import SharedCluster

# The same examples in every run; a busy machine must not make a test fail.
settings.register_profile(
    "deep",
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.register_profile("quick", settings.get_profile("deep"), max_examples=count_of(100))


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add `--deep`."""
    what = "try all examples, and run the tests that take long as well"
    parser.addoption("--deep", action="store_true", help=what)


def pytest_configure(config: pytest.Config) -> None:
    """Set the depth, before modules of tests ask for it."""
    set_depth(deep=config.getoption("--deep"))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what takes long, unless it is asked for."""
    if config.getoption("--deep"):
        return
    deep = [item for item in items if item.get_closest_marker("deep")]
    if deep:
        config.hook.pytest_deselected(items=deep)
        items[:] = [item for item in items if not item.get_closest_marker("deep")]


_DROPPED_PREFIXES = ("HASHCLIENT_", "XDG_")
_DROPPED = {
    "ALL_PROXY",
    "COLUMNS",
    "CREDENTIALS_DIRECTORY",
    "FORCE_COLOR",
    "HTTPS_PROXY",
    "HTTP_PROXY",
    "NO_COLOR",
    "NO_PROXY",
    "SSL_CERT_DIR",
    "SSL_CERT_FILE",
}


@pytest.fixture(scope="session", autouse=True)
def _own_environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for name in list(os.environ):
            if name.upper() in _DROPPED or name.startswith(_DROPPED_PREFIXES):
                patch.delenv(name)
        home = tmp_path_factory.mktemp("home")
        patch.setenv("HOME", str(home))
        patch.setenv("LC_ALL", "C.UTF-8")
        patch.setenv("TZ", "UTC")
        for name in ("CACHE", "CONFIG", "DATA", "STATE"):
            patch.setenv(f"XDG_{name}_HOME", str(home / name.lower()))
        umask = os.umask(0o022)
        yield
        os.umask(umask)


@pytest.fixture(autouse=True)
def _own_signals() -> Iterator[None]:
    with restored_signals():
        yield


@pytest.fixture(scope="session")
def shared_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SharedCluster]:
    """A Dask cluster that is started when the first test needs it."""
    from tests.kit import cluster

    with cluster.shared_cluster(tmp_path_factory.mktemp("cluster")) as shared:
        yield shared


@pytest.fixture
def cluster(shared_cluster: SharedCluster) -> SharedCluster:
    """A Dask cluster, all of whose workers run."""
    return shared_cluster.whole()
