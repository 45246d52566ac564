"""Settings of all tests: a clean environment, Hypothesis without randomness, and no syncs.

The caller's environment does not reach a test: no home directory, no settings, no proxy, no umask,
no ignored signal. Tests that write state pass `--state-dir` or set `XDG_STATE_HOME` themselves.
"""

from __future__ import annotations

import faulthandler
import gc
import os
import shutil
import signal
import tempfile
import zlib
from collections import defaultdict
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.internal.conjecture import providers

from hashclient.matches import tables
from tests.kit import restored_signals
from tests.kit.depth import count_of, set_depth

if TYPE_CHECKING:
    from xdist.workermanage import WorkerController

    from tests.kit.cluster import SharedCluster

# Every run tries the same examples, and a busy machine must not make a test fail.
settings.register_profile(
    "deep",
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.too_slow],
)
# Hypothesis would also try constants of all imported modules, which depend on the tests that ran
# earlier in the same process.
providers._get_local_constants = lambda: providers._local_constants
settings.register_profile("quick", settings.get_profile("deep"), max_examples=count_of(100))


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options `--full` and `--deep`."""
    full = "run the slow tests as well, and all cases of those that have many"
    parser.addoption("--full", action="store_true", help=full)
    deep = "run all tests, and try all examples: an hour or more"
    parser.addoption("--deep", action="store_true", help=deep)


@pytest.hookimpl(trylast=True)  # pytest's own hook is called before this hook
def pytest_configure(config: pytest.Config) -> None:
    """Set the depth before test modules need it; open the file for a dying worker's traceback."""
    set_depth(deep=config.getoption("--deep"))
    if directory := getattr(config, "workerinput", {}).get("last_words"):
        path = Path(directory, str(os.getpid()))
        config.stash[_LAST_WORDS] = os.open(path, os.O_CREAT | os.O_WRONLY)
        faulthandler.enable(config.stash[_LAST_WORDS])
    else:
        config.stash[_LAST_WORDS] = os.dup(2)  # during a test, descriptor 2 is another file


#: `_LAST_WORDS` is the descriptor to which a process writes its traceback when it dies, or when one
#: test has taken `_HANGS_S` seconds. `_DIRECTORY` has these files of the workers.
_LAST_WORDS = pytest.StashKey[int]()
_DIRECTORY = pytest.StashKey[str]()
_HANGS_S = 600
#: The most cases of one test that a quick run tries.
_MOST_CASES = 8


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: WorkerController) -> None:
    """Give a worker the directory for its traceback."""
    if _DIRECTORY not in node.config.stash:
        node.config.stash[_DIRECTORY] = tempfile.mkdtemp(prefix="hashclient-tests-")
    node.workerinput["last_words"] = node.config.stash[_DIRECTORY]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Let a hanging test fail with its process, so that another process runs the other tests."""
    faulthandler.dump_traceback_later(_HANGS_S, file=item.config.stash[_LAST_WORDS], exit=True)
    try:
        return (yield)
    finally:
        faulthandler.cancel_dump_traceback_later()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Show the tests at which workers died, because people read the end of a long log."""
    if (directory := terminalreporter.config.stash.get(_DIRECTORY, None)) is None:
        return
    for path in sorted(Path(directory).iterdir()):
        if text := path.read_text():
            terminalreporter.section(f"where process {path.name} was when it died")
            terminalreporter.write(text)
    shutil.rmtree(directory)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Exclude the many objects that live until the end from each garbage collection."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.collect()
        gc.freeze()
        gc.enable()


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Return one worker more than there are processors, because tests often wait."""
    return len(os.sched_getaffinity(0)) + 1


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out tests and cases for which this run has no time, and none that are named.

    A test that is named by itself is always run. Of a file that is named, all cases of a test are
    run, except for sampled tests.
    """
    if config.getoption("--deep") or any("::" in argument for argument in config.args):
        return
    left_out = {"deep"} if config.getoption("--full") else {"deep", "slow"}
    most = _MOST_CASES if all(Path(name).is_dir() for name in config.args) else len(items)
    cases: defaultdict[object, list[pytest.Item]] = defaultdict(list)
    for item in items:
        if not any(item.get_closest_marker(name) for name in left_out):
            name = getattr(item, "originalname", item.name)
            cases[item.path, item.parent and item.parent.name, name].append(item)
    for test in cases.values():
        if "slow" in left_out:
            # Parameters repeat in the order of cases: every n-th case could have the same ones.
            test.sort(key=lambda item: zlib.crc32(item.nodeid.encode()))
            del test[1 if test[0].get_closest_marker("sampled") else most :]
    wanted = {item for test in cases.values() for item in test}
    others = [item for item in items if item not in wanted]
    if others:
        config.hook.pytest_deselected(items=others)
        items[:] = [item for item in items if item in wanted]


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
        # Syncs are a third of the work of a fixture, and no test cuts the power, so they are left
        # out. Tests of syncs watch the calls, and commands in other processes do sync.
        patch.setattr(os, "fsync", lambda _fd: None)
        patch.setattr(tables, "SYNCHRONOUS", "OFF")
        umask = os.umask(0o022)
        # A shell that starts pytest in the background ignores these signals, and all commands would
        # inherit this.
        for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP, signal.SIGTERM):
            if signal.getsignal(number) is signal.SIG_IGN:
                is_python = number == signal.SIGINT
                signal.signal(number, signal.default_int_handler if is_python else signal.SIG_DFL)
        yield
        os.umask(umask)


@pytest.fixture(autouse=True)
def _own_signals() -> Iterator[None]:
    with restored_signals():
        yield


@pytest.fixture
def reachable(tmp_path: Path) -> Path:
    """A test directory that every account can enter, unlike the directories of pytest."""
    for folder in (tmp_path, *tmp_path.parents):
        mode = folder.stat().st_mode
        if not mode & 0o011:
            folder.chmod(mode & 0o7777 | 0o011)
    return tmp_path


@pytest.fixture(scope="session")
def shared_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SharedCluster]:
    """A Dask cluster that is started when the first test needs it."""
    from tests.kit import cluster

    with cluster.shared_cluster(tmp_path_factory.mktemp("cluster")) as shared:
        yield shared


@pytest.fixture
def cluster(shared_cluster: SharedCluster) -> SharedCluster:
    """The shared Dask cluster, all of whose workers run."""
    return shared_cluster.whole()
