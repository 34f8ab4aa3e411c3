"""Files of others: the folders they are looked for in, their pinned hashes, and how package managers fetch them."""

from __future__ import annotations

import gzip
import hashlib
import importlib.metadata
import os
import subprocess
import sys
import tempfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from workloads.errors import InputError


class Files(NamedTuple):
    """The files of one data set, and the package that has them.

    `digests` are of the decompressed bytes, where a file may also lie as NAME.gz: MD5 (32 digits) or SHA-256.
    """

    name: str
    digests: Mapping[str, str]
    folder: str  # below a data folder, as fetched
    package: str  # a Debian package, or a Python one whose source archive is the file
    debian_folder: Path | None  # where the Debian package puts the files
    ways: tuple[str, ...]  # to get them, for the message


def cache() -> Path:
    """The folder of what was downloaded."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "cimsim"


def forms(files: Files, root: Path) -> list[Path]:
    """Where under `root` the files may lie: directly, as we fetch them, or as a package unpacks."""
    unpacked = [root / files.debian_folder.relative_to("/")] if files.debian_folder else []
    return [root, root / files.folder, *unpacked]


def search_order(files: Files) -> list[Path]:
    """The folders CIMSIM_DATA, cache, .data and Debian's, in their forms."""
    named = os.environ.get("CIMSIM_DATA")
    roots = [Path(named)] if named else []
    roots += [cache(), Path.cwd() / ".data"]
    system = [files.debian_folder] if files.debian_folder else []
    return [form for root in roots for form in forms(files, root)] + system


def find(files: Files, folders: list[Path]) -> Path | None:
    """The first folder that holds all files."""
    return next((folder for folder in folders if all(_file(folder, name) for name in files.digests)), None)


def locate(files: Files, root: Path | None) -> Path | None:
    """The folder of all files, under `root` only if it is given; None if there is none."""
    return find(files, forms(files, root) if root else search_order(files))


def _file(folder: Path, name: str) -> Path | None:
    return next((path for path in (folder / f"{name}.gz", folder / name) if path.is_file()), None)


def not_found(files: Files, root: Path | None) -> InputError:
    """The error that names the files, where they were looked for, and every way to get them."""
    system = f" and {files.debian_folder}" if files.debian_folder else ""
    looked = root or f"CIMSIM_DATA, {cache()}, .data{system}"
    ways = "; or ".join(("set CIMSIM_DATA to their folder", *files.ways))
    names = ", ".join(files.digests)
    return InputError(files.name, [f"files = none (looked in {looked}): must be {names} (ways: {ways})"])


def read(files: Files, folder: Path) -> list[bytes]:
    """The decompressed bytes of all files of the folder. Raises InputError where a hash is wrong."""
    return [_read_checked(folder, name, digest) for name, digest in files.digests.items()]


def _read_checked(folder: Path, name: str, digest: str) -> bytes:
    path = _file(folder, name)
    assert path is not None
    kind, packed = "md5" if len(digest) == 32 else "sha256", path.name != name
    try:
        raw = gzip.decompress(path.read_bytes()) if packed else path.read_bytes()
        found = hashlib.new(kind, raw, usedforsecurity=False).hexdigest()
    except (OSError, EOFError, zlib.error) as error:
        raw, found = b"", f"unreadable ({error})"
    if found != digest:
        remedy = "delete the file and load again, to find or fetch another copy"
        hashed = f"{kind} of the decompressed bytes" if packed else kind
        raise InputError(str(path), [f"{hashed} = {found}: must be {digest} ({remedy})"])
    return raw


def fetch(files: Files, target: Path) -> bool:
    """Puts the files under `target` with apt or pip, without root; False if that is not there or fails."""
    if find(files, forms(files, target)):
        return True
    with tempfile.TemporaryDirectory() as temp:
        try:
            (_fetch_debian if files.debian_folder else _fetch_sdist)(files, Path(temp), target)
        except (OSError, subprocess.SubprocessError, ValueError):
            return False
    return find(files, forms(files, target)) is not None


def _fetch_debian(files: Files, temp: Path, target: Path) -> None:
    _run("apt-get", "-q", "download", files.package, cwd=temp)
    (package,) = temp.glob("*.deb")
    _run("dpkg-deb", "-x", str(package), str(target), cwd=Path.cwd())


def _fetch_sdist(files: Files, temp: Path, target: Path) -> None:
    """pip runs the archive's setup script to read its name, so it must check the hash before."""
    wanted = temp / "wanted.txt"
    wanted.write_text("".join(f"{files.package} --hash=sha256:{digest}\n" for digest in files.digests.values()))
    options = ("--quiet", "--no-deps", "--no-binary", ":all:", "--dest", str(target / files.folder))
    _run(sys.executable, "-m", "pip", "download", *options, "--requirement", str(wanted), cwd=Path.cwd())


def _run(*command: str, cwd: Path) -> None:
    subprocess.run(command, cwd=cwd, check=True, capture_output=True, timeout=300)


class Packaged(NamedTuple):
    """A file inside an installed Python package (`NAME==VERSION`), which is found without importing the package."""

    requirement: str
    path: str  # below site-packages
    sha256: str | None = None


def packaged(file: Packaged) -> Path:
    """Where the file is. Raises InputError with the command that installs it."""
    name = file.requirement.partition("==")[0]
    try:
        path = Path(str(importlib.metadata.distribution(name).locate_file(file.path)))
        found = None if path.is_file() else f"without {file.path}"
    except importlib.metadata.PackageNotFoundError:
        path, found = Path(file.path), "not installed"
    if found:
        remedy = f"pip install --no-deps {file.requirement}"
        raise InputError(name, [f"package = {found}: must be {file.requirement} in this environment ({remedy})"])
    return path


def read_packaged(file: Packaged) -> bytes:
    """Its bytes. Raises InputError if the package is missing or the hash is wrong."""
    path = packaged(file)
    raw = path.read_bytes()
    found = hashlib.sha256(raw).hexdigest()
    if file.sha256 not in (None, found):
        remedy = f"pip install --no-deps --force-reinstall {file.requirement}"
        raise InputError(str(path), [f"sha256 = {found}: must be {file.sha256} ({remedy})"])
    return raw
