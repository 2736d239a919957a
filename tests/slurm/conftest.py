"""One cluster for all tests of this folder."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from alphamed_nemo.clinic.bank import embedded_bank
from alphamed_nemo.data.io import write_questions
from tests.slurm.lab import SCRIPT, Job, Lab, lab_environment


@pytest.fixture(scope="session")
def slurm_packages() -> None:
    if os.geteuid() != 0:
        pytest.skip("a cluster of network namespaces needs root")
    if shutil.which("apt-get") is None:
        pytest.skip("Slurm is installed from Debian's packages, and there is no apt-get")
    made = subprocess.run(["unshare", "--mount", "--net", "true"], capture_output=True, text=True)
    if made.returncode:
        pytest.skip(f"this machine allows no namespaces: {made.stderr.strip()}")
    installed = subprocess.run([SCRIPT, "install"], capture_output=True, text=True)
    if installed.returncode:
        pytest.skip(f"Slurm's packages cannot be installed: {installed.stderr.strip()[-300:]}")


@pytest.fixture(scope="session")
def container_plugin(slurm_packages: None, tmp_path_factory: pytest.TempPathFactory) -> Path | None:
    """plugstack.conf with the stand-in for Pyxis; None where it cannot be compiled."""
    folder = tmp_path_factory.mktemp("spank")
    headers = Path("/usr/include/slurm/spank.h")
    if not headers.exists():
        subprocess.run(
            ["apt-get", "install", "-y", "-qq", "--no-install-recommends", "libslurm-dev"], capture_output=True
        )
    if not headers.exists() or shutil.which("gcc") is None:
        return None
    root = folder / "root"
    for name in ("usr", "etc", "tmp", "proc", "sys", "dev", "var", "work"):
        (root / name).mkdir(parents=True)
    for name in ("bin", "lib", "lib64", "sbin"):
        if Path("/", name).is_symlink():
            (root / name).symlink_to(f"usr/{name}")
        else:
            (root / name).mkdir()
    for name in ("resolv.conf", "hosts"):
        (root / "etc" / name).touch()
    plugin, source = folder / "spank_container_stub.so", SCRIPT.with_name("spank_container_stub.c")
    subprocess.run(["gcc", "-shared", "-fPIC", "-O2", "-Wall", "-o", plugin, source], check=True)
    conf = folder / "plugstack.conf"
    conf.write_text(f"required {plugin} rootfs={root}\n")
    return conf


@pytest.fixture
def lab(cluster: Lab) -> Iterator[Lab]:
    """The cluster, empty before and after each test."""
    yield cluster
    jobs = [Job(cluster, job) for job in cluster.command("squeue", "--noheader", "--format=%A").split()]
    for job in jobs:
        cluster.command("scancel", job.id)
        job.wait(30)


@pytest.fixture(scope="session")
def cluster(
    slurm_packages: None, container_plugin: Path | None, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Lab]:
    folder = tmp_path_factory.mktemp("slurm")
    env = lab_environment(folder / "lab", f"PlugStackConfig={container_plugin}" if container_plugin else "")
    env = {name: value for name, value in env.items() if not name.startswith("ALPHAMED_")}
    site = folder / "site.env"
    site.write_text(f"ALPHAMED_PYTHON={sys.executable}\nALPHAMED_RUNS={folder / 'runs'}\nGLOO_SOCKET_IFNAME=eth0\n")
    env["ALPHAMED_SITE"] = str(site)
    up = subprocess.run([SCRIPT, "up"], env=env, capture_output=True, text=True)
    try:
        assert up.returncode == 0, up.stdout + up.stderr
        yield Lab(env, folder)
    finally:
        subprocess.run([SCRIPT, "down"], env=env, check=True, capture_output=True)


@pytest.fixture(scope="session")
def questions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with train.jsonl and heldout.jsonl."""
    folder = tmp_path_factory.mktemp("questions")
    for name, questions in zip(("train", "heldout"), embedded_bank(60, 20, seed=1), strict=True):
        write_questions(questions, folder / f"{name}.jsonl")
    return folder
