"""Builds the OCI image from Debian's packages, the locked wheels and this commit alone.

    python -m docs.image.build dist/hashclient-image.tar

It needs root, mmdebstrap and bubblewrap, and the registries of Debian and of the wheels. The same
commit and the same state of Debian's packages give the same bytes, because all dates are the date
of the commit. The image's bill of materials (CycloneDX 1.6) is written beside the image.
`docs/image.md` says how to run the image.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

from docs.image.parts import (
    MACHINES,
    PYTHON,
    RUNTIME,
    SUITE,
    commit_time,
    finish,
    formatted,
    install,
    output_of,
    version,
)

#: Folders below /usr/share that are left out, because nobody reads them in an image.
WITHOUT = ("doc", "man", "locale", "info", "lintian", "perl5")
#: The id of the user that the program runs as, who owns only the state directory, and its path.
USER, STATE = 65532, "/var/lib/hashclient"
LIBRARY, SITE = f"usr/lib/python{PYTHON}", f"usr/local/lib/python{PYTHON}/dist-packages"


def main() -> None:
    """Build the image that is named on the command line."""
    target = Path(sys.argv[1])
    epoch = commit_time()
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        packages = _debian(work / "debian.tar", epoch)
        _application(work / "root", work / "debian.tar", epoch)
        layers = [
            _layer(work / "debian.tar", epoch),
            _layer(_packed(work / "root", work / "own.tar"), epoch),
        ]
        _write_image(target, layers, epoch)
        finish(target, "container", _described(packages), epoch)


def _debian(target: Path, epoch: int) -> list[str]:
    """Write a tar of Debian's unpacked packages, and return the names of the packages' files.

    No maintainer script of a package is run.
    """
    options = [f"--dpkgopt=path-exclude=/usr/share/{name}/*" for name in WITHOUT]
    options.append("--dpkgopt=path-include=/usr/share/doc/*/copyright")
    names = target.with_suffix(".names")
    options.append(f'--extract-hook=ls "$1"/var/cache/apt/archives > {names}')
    words = ["mmdebstrap", "--quiet", "--mode=root", "--variant=extract", *options]
    words += [f"--include={','.join(('base-files', *RUNTIME))}", SUITE, str(target)]
    output_of(*words, epoch=epoch)
    return [name for name in names.read_text().split() if name.endswith(".deb")]


def _application(root: Path, debian: Path, epoch: int) -> None:
    """Unpack Debian's packages, and install the locked wheels and this commit into them."""
    root.mkdir()
    output_of("tar", "-C", root, "--exclude=./dev/*", "-xf", debian)
    site = root / SITE
    install(site, root.with_name("wheels"), epoch)
    # The byte code is checked by hash, not by date. Without byte code each start would compile,
    # because the image's root is read-only. A script of Debian's package would compile the library.
    compiling = "import compileall, py_compile; compileall.compile_dir('/{}', quiet=2, workers=1,"
    compiling += " invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH)"
    # -B, because Python would otherwise write byte code with dates for the modules imported here.
    for folder in (LIBRARY, SITE):
        words = (f"python{PYTHON}", "-B", "-c", compiling.format(folder))
        output_of(*caged(root, writable=True), *words)


def caged(root: Path, *, writable: bool = False) -> list[str]:
    """Return the command that runs a program with an unpacked image as its root directory."""
    return [
        *("bwrap", "--bind" if writable else "--ro-bind", str(root), "/"),
        *("--dev", "/dev", "--proc", "/proc", "--tmpfs", "/tmp", "--unshare-all", "--clearenv"),  # noqa: S108 - that of the image
        *("--setenv", "PATH", "/usr/bin", "--setenv", "PYTHONHASHSEED", "0"),
    ]


def _packed(root: Path, target: Path) -> Path:
    """Write the second layer: the program, and files that maintainer scripts would create."""
    authorities = sorted((root / "usr/share/ca-certificates").rglob("*.crt"))
    own = {
        "etc/ssl/certs/ca-certificates.crt": "".join(path.read_text() for path in authorities),
        "etc/passwd": f"root:x:0:0::/:/bin/false\nhashclient:x:{USER}:{USER}::{STATE}:/bin/false\n",
        "etc/group": f"root:x:0:\nhashclient:x:{USER}:\n",
    }
    with tarfile.open(target, "w", format=tarfile.PAX_FORMAT) as archive:
        for folder in (root / "usr/local", *(root / LIBRARY).rglob("__pycache__")):
            archive.add(folder, str(folder.relative_to(root)))
        for name, text in own.items():
            member = tarfile.TarInfo(name)
            member.size = len(text.encode())
            archive.addfile(member, io.BytesIO(text.encode()))
        state = tarfile.TarInfo(STATE.lstrip("/"))
        state.type, state.mode, state.uid, state.gid = tarfile.DIRTYPE, 0o700, USER, USER
        archive.addfile(state)
    return target


def _layer(archive: Path, epoch: int) -> tuple[bytes, str]:
    """Return a layer with its members sorted, compressed, and the digest of its plain bytes."""
    plain = io.BytesIO()
    with (
        tarfile.open(archive) as source,
        tarfile.open(fileobj=plain, mode="w", format=tarfile.PAX_FORMAT) as packed,
    ):
        for member in sorted(source.getmembers(), key=lambda member: member.name):
            if member.isdev():
                continue
            member.mtime, member.uname, member.gname = min(int(member.mtime), epoch), "", ""
            if member.name != STATE.lstrip("/"):
                member.uid = member.gid = 0
            member.pax_headers = {}
            packed.addfile(member, source.extractfile(member) if member.isreg() else None)
    data = plain.getvalue()
    return gzip.compress(data, 9, mtime=0), f"sha256:{hashlib.sha256(data).hexdigest()}"


def _write_image(target: Path, layers: list[tuple[bytes, str]], epoch: int) -> None:
    """Write an image as one archive in the layout of OCI's image specification 1.1."""
    files: dict[str, bytes] = {}

    def blob(data: bytes, kind: str) -> dict[str, Any]:
        digest = hashlib.sha256(data).hexdigest()
        files[f"blobs/sha256/{digest}"] = data
        media = f"application/vnd.oci.image.{kind}"
        return {"mediaType": media, "digest": f"sha256:{digest}", "size": len(data)}

    def document(value: object, kind: str) -> dict[str, Any]:
        return blob(json.dumps(value, sort_keys=True).encode(), kind)

    labels = {
        "org.opencontainers.image.title": "hashclient",
        "org.opencontainers.image.version": version(),
        "org.opencontainers.image.revision": output_of("git", "rev-parse", "HEAD"),
        "org.opencontainers.image.licenses": "Apache-2.0",
    }
    config = {
        "created": formatted(epoch),
        "architecture": MACHINES[os.uname().machine],
        "os": "linux",
        "config": {
            "User": f"{USER}:{USER}",
            "Env": [
                *("PATH=/usr/bin", "LC_ALL=C.UTF-8", f"HASHCLIENT_STATE_DIR={STATE}"),
                *("PYTHONDONTWRITEBYTECODE=1", f"HOME={STATE}"),
            ],
            "Entrypoint": [f"/usr/bin/python{PYTHON}", "-P", "-m", "hashclient"],
            "Cmd": ["--help"],
            "Volumes": {STATE: {}},
            "Labels": labels,
            "StopSignal": "SIGTERM",
        },
        "rootfs": {"type": "layers", "diff_ids": [digest for _, digest in layers]},
        "history": [{"created": formatted(epoch), "created_by": "docs.image.build"}] * len(layers),
    }
    manifest = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": document(config, "config.v1+json"),
        "layers": [blob(data, "layer.v1.tar+gzip") for data, _ in layers],
        "annotations": labels,
    }
    found = document(manifest, "manifest.v1+json")
    # The name that the image gets when it is loaded; `docs/image.md` uses this name.
    found["annotations"] = {"org.opencontainers.image.ref.name": "hashclient:latest"}
    index = {"schemaVersion": 2, "manifests": [found]}
    files["index.json"] = json.dumps(index, sort_keys=True).encode()
    files["oci-layout"] = b'{"imageLayoutVersion": "1.0.0"}'
    target.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(target, "w", format=tarfile.USTAR_FORMAT) as archive:
        for name in sorted(files):
            member = tarfile.TarInfo(name)
            member.size, member.mtime, member.mode = len(files[name]), epoch, 0o644
            archive.addfile(member, io.BytesIO(files[name]))


def _described(packages: list[str]) -> list[dict[str, Any]]:
    """Return Debian's packages as components of a bill of materials, from their file names."""
    found = []
    for file in packages:
        name, number, kind = unquote(file.removesuffix(".deb")).split("_")
        url = f"pkg:deb/debian/{name}@{quote(number)}?arch={kind}&distro={SUITE}"
        found.append({"type": "library", "name": name, "version": number, "purl": url})
    return found


if __name__ == "__main__":
    main()
