"""The image: the same bytes twice; its root works read-only, for a foreign user."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import socket
import struct
import subprocess
import sys
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from docs.image.build import LIBRARY, SITE, STATE, USER
from tests.docs.blocks import DOCS
from tests.kit import ROOT

pytestmark = pytest.mark.docs

PAGE = DOCS / "image.md"
#: The limit in seconds for a build, because registries may be slow.
BUILD_S = 1200


def needs(*programs: str, root: bool = False) -> None:
    """Skip the test if a program is missing or the user is not root."""
    missing = [name for name in programs if shutil.which(name) is None]
    if missing:
        pytest.skip(f"there is no {', '.join(missing)}")
    if root and os.getuid():
        pytest.skip("it needs root")


def build(target: Path) -> None:
    words = [sys.executable, "-m", "docs.image.build", str(target)]
    subprocess.run(words, cwd=ROOT, check=True, capture_output=True, timeout=BUILD_S)


@dataclass
class Container:
    """An unpacked image, run as its user with a read-only root and a volume for the state."""

    root: Path
    config: dict[str, Any]
    #: Directories that are mounted, by their paths in the container.
    mounts: dict[str, Path]

    def command(self, *words: str) -> list[str]:
        start = f"import os, sys; os.setgroups([]); os.setgid({USER}); os.setuid({USER})"
        start += "; os.execv(sys.argv[1], sys.argv[1:])"
        made = ["bwrap", "--ro-bind", str(self.root), "/", "--dev", "/dev", "--proc", "/proc"]
        made += ["--tmpfs", "/tmp", "--unshare-pid", "--unshare-ipc", "--clearenv"]
        made += ["--die-with-parent", "--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID"]
        for name, value in (text.split("=", 1) for text in self.config["Env"]):
            made += ["--setenv", name, value]
        for place, folder in self.mounts.items():
            made += ["--bind", str(folder), place]
        python, *entry = self.config["Entrypoint"]
        return [*made, python, "-I", "-c", start, python, *entry, *words]

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(self.command(*words), capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    needs("mmdebstrap", "bwrap", root=True)
    target = tmp_path_factory.mktemp("image") / "image.tar"
    build(target)
    return target


@pytest.fixture(scope="module")
def container(image: Path, tmp_path_factory: pytest.TempPathFactory) -> Container:
    files = tmp_path_factory.mktemp("layout")
    with tarfile.open(image) as archive:
        archive.extractall(files, filter="data")

    def read(described: dict[str, Any]) -> Path:
        return files / f"blobs/sha256/{described['digest'].removeprefix('sha256:')}"

    (described,) = json.loads((files / "index.json").read_text())["manifests"]
    # The name that `podman load` gives to the image.
    assert described["annotations"]["org.opencontainers.image.ref.name"] == "hashclient:latest"
    manifest = json.loads(read(described).read_text())
    config = json.loads(read(manifest["config"]).read_text())["config"]
    root, state = tmp_path_factory.mktemp("root"), tmp_path_factory.mktemp("state")
    for layer in manifest["layers"]:
        subprocess.run(["tar", "-C", root, "-xzf", read(layer)], check=True)
    root.chmod(0o755)
    os.chown(state, USER, USER)
    return Container(root, config, {STATE: state})


@pytest.mark.deep
def test_the_image_is_small_and_the_same_twice(image: Path, tmp_path: Path) -> None:
    assert image.stat().st_size < 120e6
    build(tmp_path / "again.tar")
    assert (tmp_path / "again.tar").read_bytes() == image.read_bytes()
    bill = json.loads(image.with_suffix(".cdx.json").read_text())
    names = {component["name"] for component in bill["components"]}
    assert {"libc6", "pyarrow", "python3.13-minimal", "tuf"} <= names


@pytest.mark.deep
def test_nothing_is_compiled_at_a_start(container: Container) -> None:
    for folder in (LIBRARY, SITE):
        for path in (container.root / folder).rglob("*.py"):
            made = path.parent / "__pycache__" / f"{path.stem}.cpython-313.pyc"
            # By its flags (PEP 552), the file has no date and is used without a check of its
            # source.
            assert made.read_bytes()[4:8] == b"\1\0\0\0", path


@pytest.mark.deep
def test_it_runs_the_demo_as_its_user(container: Container) -> None:
    assert container.config["User"] == f"{USER}:{USER}"
    assert container.config["Volumes"] == {STATE: {}}
    done = container.run("demo")
    assert done.returncode == 0, done.stderr


@pytest.mark.deep
def test_the_examples_scan_and_answer_by_their_socket(
    container: Container, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """The arguments of both examples, word for word, with a provider on loopback."""
    work, shared = tmp_path_factory.mktemp("work"), tmp_path_factory.mktemp("socket")
    files = work / "files"
    files.mkdir()
    (files / "listed.txt").write_text("A dummy file that is on the list.")
    (work / "list.sum").write_text(
        f"{hashlib.sha256((files / 'listed.txt').read_bytes()).hexdigest()}  listed.txt\n"
    )
    ours = [sys.executable, "-m", "hashclient", "provider"]
    subprocess.run([*ours, "init", "repo"], cwd=work, check=True, capture_output=True)
    publish = [*ours, "publish", "repo", "--list", "baseline", "list.sum"]
    subprocess.run(publish, cwd=work, check=True, capture_output=True)
    secret = work / "secret"
    secret.mkdir()
    for folder in (files, secret):
        folder.chmod(0o755)
    os.chown(shared, USER, USER)
    # A container program creates the mount points of the examples, so the test does it, too.
    for place in ("srv/files", "run/hashclient", "srv/secret"):
        (container.root / place).mkdir(parents=True, exist_ok=True)
    mounts = {
        **container.mounts,
        "/srv/files": files,
        "/srv/secret": secret,
        "/run/hashclient": shared,
    }
    box = Container(container.root, container.config, mounts)
    job, pod = examples()
    (scan,) = job["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"]
    (serve,) = [one for one in pod["spec"]["containers"] if one["name"] == "hashclient"]
    serving = [*ours, "serve", "repo", "--bind", "127.0.0.1:0"]
    with subprocess.Popen(serving, cwd=work, stdout=subprocess.PIPE, text=True) as provider:
        assert provider.stdout is not None
        try:
            address = provider.stdout.readline().split()[1]
            for name in ("root.json", "keys/serve/ca.pem", "keys/serve/token"):
                os.chown(shutil.copy(work / "repo" / name, secret), USER, USER)
            words = ["--root", "/srv/secret/root.json", "--ca", "/srv/secret/ca.pem"]
            done = box.run("init", address, *words, "--token-file", "/srv/secret/token")
            assert done.returncode == 0, done.stderr
            done = box.run(*scan["args"])
            assert done.returncode == 10, done.stderr
            daemon = subprocess.Popen(
                box.command(*serve["args"]), stdout=subprocess.PIPE, text=True
            )
            assert daemon.stdout is not None
            with daemon:
                assert daemon.stdout.readline().startswith("listening at ")
                with socket.socket(socket.AF_UNIX) as asking:
                    asking.connect(str(shared / "socket"))
                    data = (files / "listed.txt").read_bytes()
                    asking.sendall(b"zINSTREAM\0" + struct.pack(">I", len(data)) + data + bytes(4))
                    assert b" FOUND" in asking.recv(1000)
                daemon.terminate()
        finally:
            provider.terminate()


def examples() -> list[dict[str, Any]]:
    blocks = re.findall(r"```yaml\n(.*?)```", PAGE.read_text(), re.DOTALL)
    return [YAML(typ="safe").load(text) for text in blocks]


def test_the_examples_for_kubernetes_drop_all_rights_and_keep_the_state() -> None:
    job, pod = examples()
    specs = (job["spec"]["jobTemplate"]["spec"]["template"]["spec"], pod["spec"])
    for spec in specs:
        (ours,) = [one for one in spec["containers"] if one["image"].endswith("/hashclient")]
        rights = ours["securityContext"]
        assert rights["readOnlyRootFilesystem"] and rights["capabilities"] == {"drop": ["ALL"]}
        places = {mount["mountPath"] for mount in ours["volumeMounts"]}
        assert {STATE, "/tmp"} <= places
        assert {mount["name"] for mount in ours["volumeMounts"]} <= {
            v["name"] for v in spec["volumes"]
        }
