"""The image: the same bytes twice; its root runs as a stranger, read-only, and everything works."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from docs.image.build import STATE, USER, caged
from tests.docs.blocks import DOCS
from tests.kit import ROOT

pytestmark = pytest.mark.docs

PAGE = DOCS / "image.md"
#: The registries may be slow.
BUILD_S = 1200


def build(target: Path) -> bytes:
    words = [sys.executable, "-m", "docs.image.build", str(target)]
    subprocess.run(words, cwd=ROOT, check=True, capture_output=True, timeout=BUILD_S)
    return target.read_bytes()


@pytest.mark.deep
def test_the_image_is_small_the_same_twice_and_runs_the_demo(tmp_path: Path) -> None:
    if shutil.which("mmdebstrap") is None or shutil.which("bwrap") is None or os.getuid():
        pytest.skip("it needs root, mmdebstrap and bubblewrap")
    image = build(tmp_path / "image.tar")
    assert len(image) < 120e6
    assert build(tmp_path / "again.tar") == image
    files = tmp_path / "files"
    with tarfile.open(tmp_path / "image.tar") as archive:
        archive.extractall(files, filter="data")

    def read(described: dict[str, Any]) -> Path:
        return files / f"blobs/sha256/{described['digest'].removeprefix('sha256:')}"

    (described,) = json.loads((files / "index.json").read_text())["manifests"]
    manifest = json.loads(read(described).read_text())
    config = json.loads(read(manifest["config"]).read_text())["config"]
    assert config["User"] == f"{USER}:{USER}" and config["Volumes"] == {STATE: {}}
    root = tmp_path / "root"
    root.mkdir()
    for layer in manifest["layers"]:
        subprocess.run(["tar", "-C", root, "-xzf", read(layer)], check=True)
    state = tmp_path / "state"
    state.mkdir()
    os.chown(state, USER, USER)
    words = [*caged(root), "--bind", str(state), STATE, "--uid", str(USER), "--gid", str(USER)]
    for name, value in (text.split("=", 1) for text in config["Env"]):
        words += ["--setenv", name, value]
    done = subprocess.run(
        [*words, *config["Entrypoint"], "demo"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    bill = json.loads((tmp_path / "image.cdx.json").read_text())
    names = {component["name"] for component in bill["components"]}
    assert {"libc6", "pyarrow", "python3.13-minimal", "tuf"} <= names


def test_the_examples_for_kubernetes_drop_all_rights_and_keep_the_state() -> None:
    found = [
        YAML(typ="safe").load(text)
        for text in re.findall(r"```yaml\n(.*?)```", PAGE.read_text(), re.DOTALL)
    ]
    job, pod = found
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
