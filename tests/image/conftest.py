"""One build of the Dockerfile for all tests of this folder."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.image.buildah import Buildah, Container
from tests.image.dockerfile import DOCKERFILE, ROOT, argument
from tests.image.pip_settings import pip_settings
from tests.image.stand_in import STAND_INS, Unreachable, make_base

PROGRAMS = {"buildah": "buildah", "mmdebstrap": "mmdebstrap", "git": "git", "ip": "iproute2"}  # and their packages
DISK_GB = 40
REVISION = "0123abc"


@dataclass
class Image:
    """
    Attributes:
        output: what the build printed.
        mounts: the options that give a build this machine's pip settings.
    """

    buildah: Buildah
    tag: str
    output: str
    mounts: list[str]

    def container(self) -> Container:
        return self.buildah.container(self.tag)


@pytest.fixture(scope="session")
def programs() -> None:
    if os.geteuid() != 0:
        pytest.skip("building an image needs root")
    missing = [package for program, package in PROGRAMS.items() if shutil.which(program) is None]
    if not missing:
        return
    if shutil.which("apt-get") is None:
        pytest.skip(f"{', '.join(missing)} not installed, and there is no apt-get")
    for words in (["update", "-qq"], ["install", "-y", "-qq", "--no-install-recommends", *missing]):
        env = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
        done = subprocess.run(["apt-get", *words], env=env, capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"{', '.join(missing)} cannot be installed: {done.stderr.strip()[-300:]}")


@pytest.fixture(scope="session")
def buildah(programs: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Buildah]:
    folder = tmp_path_factory.mktemp("buildah")
    free = shutil.disk_usage(folder).free / 1e9
    if free < DISK_GB:
        pytest.skip(f"the build needs {DISK_GB} GB of disk; {folder} has {free:.0f} GB")
    made = Buildah(folder)
    yield made
    made.remove()


@pytest.fixture(scope="session")
def image(buildah: Buildah, tmp_path_factory: pytest.TempPathFactory) -> Image:
    """The Dockerfile as it is, from its default base; only the commit of Apex is another, as a hash cannot be faked."""
    index = subprocess.run([sys.executable, "-m", "pip", "index", "versions", "vllm"], capture_output=True, text=True)
    if index.returncode:
        pytest.skip(f"the index of Python packages cannot be reached: {index.stderr.strip()[-300:]}")
    folder = tmp_path_factory.mktemp("base")
    try:
        commit = make_base(buildah, argument("BASE"), argument("TRANSFORMER_ENGINE_VERSION"), folder)
    except Unreachable as error:
        pytest.skip(f"no Ubuntu to build on: {error}")
    settings = pip_settings()
    conf = folder / "pip.conf"
    conf.write_text(settings.text(STAND_INS))
    mounts = [f"--volume={conf}:/etc/pip.conf:ro", *(f"--volume={path}:{path}:ro" for path in settings.mounts)]
    options = [f"--build-arg=APEX_COMMIT={commit}", f"--build-arg=REVISION={REVISION}", *mounts]
    output = buildah.build(DOCKERFILE, ROOT, "localhost/alphamed-nemo", *options)
    return Image(buildah, "localhost/alphamed-nemo", output, mounts)
