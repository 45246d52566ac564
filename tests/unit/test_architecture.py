"""The layers of the project: a module imports only lower layers, which are called rooms.

`docs/architecture.md` says what each room is for.
"""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterator, Mapping
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from bench.size import arrows

pytestmark = pytest.mark.docs

ROOT = Path(__file__).parents[2]

#: Each room of the project, from the bottom up, and the rooms that it uses besides `EVERYWHERE`. A
#: room is a package, or a module of the root. A room must use each room listed for it and no other.
EVERYWHERE = "core system"
USES: Mapping[str, str] = {
    "core": "",
    "system": "",
    "audit": "",
    "config": "",
    "matches": "",
    "migrations": "",
    "formats": "",
    "packages": "audit",
    "lists": "",
    "containers": "",
    "trust": "",
    "net": "config",
    "objects": "",
    "index": "config lists",
    "session": "audit config index migrations",
    "alerts": "audit config matches net session",
    "decisions": "audit config index matches migrations session",
    "notices": "",
    "provider": "audit lists notices trust",
    "fetch": "audit config decisions index lists matches net notices session trust",
    "quarantine": "audit config index matches objects session",
    "reporting": "audit config decisions index lists matches net packages quarantine session",
    "scan": "audit config containers decisions formats index lists matches objects"
    " quarantine reporting session",
    "daemon": "config containers decisions index matches objects scan session",
    "status": "alerts audit config decisions fetch index matches notices quarantine reporting",
    "fleet": "audit formats objects session status",
    "client": "alerts audit daemon decisions fetch index lists matches notices quarantine"
    " reporting scan session status",
    "watch": "client daemon objects scan",
    "cli": "alerts audit client config daemon decisions fetch fleet formats index lists"
    " matches notices packages provider quarantine reporting scan session status"
    " watch",
    "__init__": "client config daemon fetch scan session status",
    "__main__": "cli",
}
TOP = {"cli", "__main__"}

#: The rooms of `scan`, from the bottom up, and the rooms that each one uses.
SCAN_USES: Mapping[str, str] = {
    "values": "",
    "sources": "values",
    "cache": "values",
    "check": "cache sources values",
    "objects": "cache check values",
    "executors": "sources values",
    "cluster": "cache check executors objects sources values",
    "run": "cache check cluster executors objects sources values",
}

#: Modules and calls that only the top layer may use: only it talks to a terminal, draws and exits.
TOP_ONLY_MODULES = frozenset({"click", "rich"})
TOP_ONLY_CALLS = frozenset({"print", "input", "exit", "quit", "sys.exit", "os._exit"})

#: The only call of an exit below the top layer: after a failed memory access, nothing can be
#: raised.
EXITS = frozenset({("hashclient.system.process", "os._exit")})

#: Modules for formats whose reader runs code from the file.
BANNED_MODULES = frozenset({"pickle", "cPickle", "dill", "joblib", "marshal", "shelve"})


def dotted(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


@functools.cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_bytes())


def room(module: str) -> str:
    """Return the room of the module with this dotted name."""
    return [*module.split("."), "__init__"][1]


def imports(tree: ast.AST, importer: str) -> Iterator[tuple[str, int]]:
    """Yield each dotted name that is imported anywhere in `tree`, with its line."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, node.lineno
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{importer}:{node.lineno}: relative import"
            for alias in node.names:
                yield f"{node.module}.{alias.name}", node.lineno


def called_name(call: ast.Call) -> str:
    """Return the text of the called function, usually a dotted name."""
    names, node = [], call.func
    while isinstance(node, ast.Attribute):
        names.append(node.attr)
        node = node.value
    if not isinstance(node, ast.Name):
        return ast.unparse(call.func)  # `ast.unparse` is twenty times as slow as the loop above
    return ".".join([node.id, *reversed(names)])


FILES = sorted((ROOT / "hashclient").rglob("*.py"))
MODULES = {dotted(path): path for path in FILES}


def modules_imported(path: Path) -> Iterator[str]:
    """Yield the modules of the project that one module imports."""
    for name, _ in imports(parsed(path), dotted(path)):
        found = name if name in MODULES else name.rpartition(".")[0]
        if found in MODULES and found != dotted(path):
            yield found


def test_each_room_uses_the_rooms_below_it_that_it_says() -> None:
    everywhere = set(EVERYWHERE.split())
    used: dict[str, set[str]] = {room(module): set() for module in MODULES}
    for module, path in MODULES.items():
        used[room(module)] |= {room(name) for name in modules_imported(path)} - {room(module)}
    assert {name: rooms - everywhere for name, rooms in used.items()} == {
        name: set(rooms.split()) for name, rooms in USES.items()
    }
    order = list(USES)
    for name, rooms in used.items():
        allowed = {"core"} if name in everywhere else everywhere | set(order)
        assert rooms <= allowed - set(order[order.index(name) :]), name


#: The client's rooms, which `provider` must not import, and which must not import `provider`.
CLIENT = "alerts client config daemon containers fetch fleet index matches net objects quarantine"
CLIENT += " reporting scan session status watch"


def test_only_the_commands_of_a_provider_import_it() -> None:
    importers = {
        module
        for module, path in MODULES.items()
        if room(module) != "provider"
        for name in modules_imported(path)
        if room(name) == "provider"
    }
    commands = {name for name in MODULES if name.startswith("hashclient.cli.provider")}
    assert importers <= commands | {"hashclient.cli.demo"}, importers - commands


def test_the_provider_could_be_a_distribution_of_its_own() -> None:
    """The provider loads no room of the client, and the client no room of the provider."""

    def reached(rooms: set[str]) -> set[str]:
        """Return the rooms of all modules that modules in `rooms` load, directly or not."""
        found: set[str] = set()
        names = {name for name in MODULES if room(name) in rooms}
        while names:
            found |= names
            names = {m for n in names for m in modules_imported(MODULES[n])} - found
        return {room(name) for name in found}

    client = set(CLIENT.split())
    assert client <= set(USES)
    assert not reached({"provider"}) & client
    assert "provider" not in reached(client)


def test_a_package_keeps_nothing_but_words_and_names_in_its_init() -> None:
    for path in FILES:
        if path.name == "__init__.py" and path.parent.name != "hashclient":
            kinds = {type(node) for node in parsed(path).body}
            assert kinds <= {ast.Expr, ast.ImportFrom, ast.Assign}, dotted(path)


def test_no_modules_import_each_other_in_a_circle() -> None:
    TopologicalSorter({m: set(modules_imported(p)) for m, p in MODULES.items()}).prepare()


def test_each_room_of_the_scan_uses_the_rooms_below_it_that_it_says() -> None:
    rooms, between = arrows(ROOT / "hashclient/scan", "hashclient.scan")
    assert rooms == set(SCAN_USES)
    assert between == {(name, used) for name in SCAN_USES for used in SCAN_USES[name].split()}
    order = list(SCAN_USES)
    assert all(order.index(used) < order.index(name) for name, used in between)


def test_only_the_command_line_prints_and_exits() -> None:
    below = {module: path for module, path in MODULES.items() if room(module) not in TOP}
    wrong = [
        f"{module}:{line} imports {name}"
        for module, path in below.items()
        for name, line in imports(parsed(path), module)
        if name.split(".")[0] in TOP_ONLY_MODULES
    ]
    wrong += [
        f"{module}:{node.lineno} calls {called_name(node)}"
        for module, path in below.items()
        for node in ast.walk(parsed(path))
        if isinstance(node, ast.Call)
        and called_name(node) in TOP_ONLY_CALLS
        and (module, called_name(node)) not in EXITS
    ]
    assert not wrong, "\n".join(wrong)


def test_no_module_reads_data_that_can_run_code() -> None:
    wrong = [
        f"{module}:{line} imports {name}"
        for module, path in MODULES.items()
        for name, line in imports(parsed(path), module)
        if name.split(".")[0] in BANNED_MODULES or name.endswith(".*")
    ]
    wrong += [
        f"{module}:{node.value.lineno} allows pickles"
        for module, path in MODULES.items()
        for node in ast.walk(parsed(path))
        if isinstance(node, ast.keyword) and node.arg == "allow_pickle"
        if not (isinstance(node.value, ast.Constant) and node.value.value is False)
    ]
    assert not wrong, "\n".join(wrong)


#: Rooms and modules that work in directories of other users, who may change between two calls where
#: a path leads.
IN_DIRECTORIES_OF_OTHERS = [
    *("daemon", "packages", "quarantine", "reporting.destinations.package", "scan", "watch"),
    *("fleet.places", "system.beneath", "system.outputs"),
]
#: Functions of these modules that nevertheless use a path, each with the reason.
GOES_BY_A_PATH: Mapping[str, str] = {
    **dict.fromkeys(
        [
            "daemon.paths._open",
            "scan.run.gone._go",
            "scan.sources.finding_again._looked_at",
            "scan.sources.finding_again.open_directory",
            "system.beneath.given",
        ],
        "opens or looks at what the user has named, or what is compared with what was listed",
    ),
    **dict.fromkeys(
        [
            "scan.cluster.named.only_same",
            "scan.cluster.worker._is_large",
            "scan.sources.again._changed_ns",
            "scan.sources.finding_again.type_of",
            "scan.sources.mounts._is_empty",
            "scan.run.whereabouts._open",
            "scan.run.whereabouts._is_link",
            "watch.changes._reports",
        ],
        "only looks, and compares what it sees with what was listed",
    ),
    **dict.fromkeys(
        [
            "quarantine.context._seal",
            "quarantine.context.keep_context",
            "quarantine.item.item_ids",
            "quarantine.item.save_notes",
            "quarantine.restore._decrypt",
            "quarantine.retention.purge",
            "quarantine.sealing.verify_evidence",
            "quarantine.sealing._sealed",
            "quarantine.store._exchange",
            "quarantine.store._remove_item",
            "quarantine.store._verify_moved",
            "quarantine.store.admit",
            "quarantine.store.drop",
            "quarantine.store.locked",
            "quarantine.store.saving",
            "quarantine.store.write",
            "quarantine.verify._check_files",
            "quarantine.verify._check_sealed",
            "quarantine.verify.verify",
            "reporting.destinations.package.handover._remove_sealed",
            "scan.cache.cache.stats",
            "scan.cache.memory.remove_inventory",
            "scan.check.kept.open",
        ],
        "works in our own state, which others may not write to",
    ),
    **dict.fromkeys(
        [
            "quarantine.isolators.files._holders",
            "quarantine.isolators.files._holds",
            "scan.cluster.quiet.dask_setup",
            "scan.executors.worker.become_child",
            "quarantine.store.at_once",
            "scan.sources.mounts._can_identify",
            "scan.sources.mounts._read_mountinfo",
            "scan.sources.mounts._uuids_of",
            "system.beneath._open_by_components",
            "system.outputs._device_of_proc",
            "watch.changes._mounts",
        ],
        "reads what the system says in /proc or /dev, or opens /",
    ),
    "packages.contents._from_directory": "opens a package that is verified"
    " after all of it is in memory, and follows no link in it",
    **dict.fromkeys(
        ["packages.index.extract", "packages.index.take"],
        "works in a new directory that is held, by a path that leads to it and nowhere else",
    ),
    "scan.cluster.probes.written": "removes the file of a random name that it has just made",
}
TAKES_A_PATH = frozenset(
    {"chmod", "chown", "lchown", "link", "listdir", "lstat", "mkdir", "open", "remove", "rename"}
    | {"replace", "rmdir", "scandir", "stat", "symlink", "truncate", "unlink", "utime"}
)
#: Methods of a `Path` and the most arguments that each one takes. The methods of a `Directory` with
#: the same names take more.
METHODS_OF_A_PATH = {
    **dict.fromkeys(("iterdir", "lstat", "read_bytes", "read_text", "rmdir", "touch"), 0),
    **dict.fromkeys(("stat", "unlink"), 0),
    **dict.fromkeys(("chmod", "glob", "hardlink_to", "mkdir", "rename", "rglob"), 1),
    **dict.fromkeys(("symlink_to", "write_bytes", "write_text"), 1),
}


def goes_by_a_path(call: ast.Call) -> bool:
    """Return whether a call gets a path but no descriptor (`dir_fd` or `/proc/self/fd`)."""
    module, _, name = called_name(call).rpartition(".")
    words = [ast.unparse(word) for word in call.args]
    if any((word.arg or "").endswith("dir_fd") for word in call.keywords):
        return False
    if module == "shutil" or (module == "" and name == "open"):
        return True
    if module == "os":
        is_held = words and (words[0] in {"fd", "opened"} or "/proc/self/fd/" in words[0])
        return name in TAKES_A_PATH and not is_held
    most = METHODS_OF_A_PATH.get(name) if isinstance(call.func, ast.Attribute) else None
    return most is not None and len(words) <= most


def functions_by_a_path(name: str, tree: ast.AST) -> set[str]:
    """Return the functions of a module in which some call gets a path and no descriptor."""
    return {
        f"{name}.{function.name}"
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef)
        for call in ast.walk(function)
        if isinstance(call, ast.Call) and goes_by_a_path(call)
    }


def test_in_directories_of_others_nothing_goes_by_a_path() -> None:
    """A new module or a new call must be added to the table with its reason, or this test fails."""
    found = set()
    for module, path in MODULES.items():
        name = module.removeprefix("hashclient.")
        if any(f"{name}.".startswith(f"{room}.") for room in IN_DIRECTORIES_OF_OTHERS):
            found |= functions_by_a_path(name, parsed(path))
    assert found == set(GOES_BY_A_PATH)


@pytest.mark.parametrize(
    "call",
    [
        *("open(path)", "os.open(path, 0)", "os.chmod(path, 0)", "os.unlink(path)"),
        *(
            "os.rename(a, b)",
            "path.rename(b)",
            "path.chmod(0)",
            "path.unlink()",
            "path.read_text()",
        ),
        *("shutil.rmtree(path)", "path.write_bytes(b'')", "os.stat(path)"),
    ],
)
def test_a_new_call_by_a_path_is_seen(call: str) -> None:
    tree = ast.parse(f"def work():\n    with a:\n        return {call}\n")
    assert functions_by_a_path("scan.new", tree) == {"scan.new.work"}
    held = ast.parse(
        "def work():\n    os.open(name, 0, dir_fd=fd)\n    os.rename(a, b, src_dir_fd=1)"
    )
    assert functions_by_a_path("scan.new", held) == set()
