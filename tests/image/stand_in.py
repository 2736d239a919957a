"""The stand-in for NVIDIA's base image: Ubuntu 24.04 from its archive, without CUDA and compilers.

It does to pip what NVIDIA's images do (PIP_CONSTRAINT with versions of their own), has a cuDNN of another version, and
what the build cannot get without nvcc or GitHub: a wheel of Transformer Engine's torch extension, and Apex's repository
where git is sent to when it asks for the real one. These are empty (apex/, transformer_engine_torch/).
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import urllib.request
from pathlib import Path

from tests.image.buildah import Buildah

ARCHIVE = "http://archive.ubuntu.com/ubuntu"
RELEASE = "noble"  # 24.04, as it was released: this pocket of the archive does not change
KEYRING = Path("/usr/share/keyrings/ubuntu-archive-keyring.gpg")
KEYRING_PACKAGE = "pool/main/u/ubuntu-keyring/ubuntu-keyring_2023.11.28.1_all.deb"
KEYRING_SHA256 = "36de43b15853ccae0028e9a767613770c704833f82586f28eb262f0311adb8a8"
PACKAGES = Path(__file__).parent
STAND_INS = "/opt/stand-ins"  # in the image
CONSTRAINT = "/etc/pip/constraint.txt"
BASE_CUDNN = 91300  # as cudnnGetVersion has it: NVIDIA's base brings a cuDNN of its own
OTHER_TRANSFORMERS = "5.18.0"
GITCONFIG = f'[url "{STAND_INS}/apex"]\n\tinsteadOf = https://github.com/NVIDIA/apex\n[safe]\n\tdirectory = *\n'


class Unreachable(Exception):
    """The archive cannot be reached, or what it sent is not a system."""


def keyring(folder: Path) -> Path:
    """The archive's public keys: this machine's, or from the package with the hash above."""
    if KEYRING.exists():
        return KEYRING
    package = folder / "ubuntu-keyring.deb"
    try:
        with urllib.request.urlopen(f"{ARCHIVE}/{KEYRING_PACKAGE}", timeout=60) as response:
            package.write_bytes(response.read())
    except OSError as error:
        raise Unreachable(f"{ARCHIVE}: {error}") from error
    found = hashlib.sha256(package.read_bytes()).hexdigest()
    if found != KEYRING_SHA256:
        raise ValueError(f"{KEYRING_PACKAGE} has SHA-256 {found}, expected {KEYRING_SHA256}")
    subprocess.run(["dpkg-deb", "--extract", package, folder / "keyring"], check=True)
    return folder / "keyring" / KEYRING.relative_to("/")


def unpack_ubuntu(root: Path, folder: Path) -> None:
    options = ["--quiet", "--variant=minbase", "--components=main,universe", "--include=apt,ca-certificates"]
    options += ["--dpkgopt=force-unsafe-io", f"--keyring={keyring(folder)}"]
    done = subprocess.run(["mmdebstrap", *options, RELEASE, root, ARCHIVE], capture_output=True, text=True)
    if done.returncode:
        raise Unreachable(done.stderr.strip()[-300:])


def apex_repository(folder: Path) -> str:
    """A git repository with the stand-in for Apex; returns its only commit."""
    shutil.copytree(PACKAGES / "apex", folder)
    git = ["git", "-C", folder, "-c", "user.name=stand-in", "-c", "user.email=stand-in@invalid"]
    for words in (["init", "--quiet"], ["add", "."], ["commit", "--quiet", "--no-gpg-sign", "--message=Stand-in"]):
        subprocess.run([*git, *words], check=True)
    return subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout.strip()


def transformer_engine_wheel(version: str, folder: Path, into: Path) -> None:
    source = shutil.copytree(PACKAGES / "transformer_engine_torch", folder / "transformer_engine_torch")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    env = os.environ | {"TRANSFORMER_ENGINE_VERSION": version}
    subprocess.run([*command, f"--wheel-dir={into}", source], env=env, check=True)


def make_cudnn(folder: Path, version: int) -> None:
    """A library that is called as cuDNN's is, and says that it is of this version."""
    folder.mkdir(parents=True, exist_ok=True)
    source = folder / "cudnn.c"
    source.write_text(f"int cudnnGetVersion(void) {{ return {version}; }}\n")
    words = ["cc", "-shared", "-nostdlib", "-Wl,-soname,libcudnn.so.9", "-o", folder / "libcudnn.so.9", source]
    subprocess.run(words, check=True)
    source.unlink()


def make_base(buildah: Buildah, tag: str, transformer_engine: str, folder: Path) -> str:
    """Commits the base under the name that the Dockerfile has; returns the commit of Apex's stand-in."""
    container = buildah.container("scratch")
    root = Path(buildah.command("mount", container.name).strip())
    unpack_ubuntu(root, folder)
    stand_ins = root / STAND_INS.lstrip("/")
    stand_ins.mkdir()
    transformer_engine_wheel(transformer_engine, folder, stand_ins)
    commit = apex_repository(stand_ins / "apex")
    make_cudnn(root / "usr" / "lib" / "x86_64-linux-gnu", BASE_CUDNN)
    (root / "etc" / "gitconfig").write_text(GITCONFIG)
    (root / "etc" / "pip").mkdir()
    (root / CONSTRAINT.lstrip("/")).write_text(f"torch==2.9.0\ntransformers=={OTHER_TRANSFORMERS}\n")
    buildah.command("umount", container.name)
    path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    buildah.command("config", f"--env=PIP_CONSTRAINT={CONSTRAINT}", f"--env=PATH={path}", container.name)
    buildah.command("commit", "--quiet", "--rm", container.name, tag)
    return commit
