"""The image's recipe, read instruction by instruction."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.image.stand_in import BASE_CUDNN, make_cudnn
from tests.unit.test_lock import entries

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "Dockerfile").read_text()


def instructions() -> list[tuple[str, str]]:
    """(name, arguments), with continued lines joined and comments left out."""
    lines = [line for line in TEXT.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines)).splitlines()
    return [(name, rest) for name, _, rest in (line.partition(" ") for line in joined)]


def arguments(name: str) -> list[str]:
    return [rest for found, rest in instructions() if found == name]


def pins() -> dict[str, str]:
    """Versions that pyproject.toml asks for, by distribution."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    found = (re.fullmatch(r"([\w.-]+)(?:\[.*\])?==(.+)", entry) for entry in extras["core"] + extras["gpu"])
    return {match[1]: match[2] for match in found if match}


def test_hadolint_finds_nothing() -> None:
    hadolint = shutil.which("hadolint", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    if hadolint is None:
        pytest.skip("no hadolint; it is among the project's dev requirements")
    found = subprocess.run([hadolint, "Dockerfile"], cwd=ROOT, capture_output=True, text=True)
    assert found.returncode == 0, found.stdout


def test_the_base_is_one_argument_with_a_tag() -> None:
    assert instructions()[0][0] == "ARG" and instructions()[0][1].startswith("BASE=")
    image = instructions()[0][1].removeprefix("BASE=")
    assert ":" in image and not image.endswith(":latest")
    assert all(origin.startswith("${BASE} AS ") for origin in arguments("FROM"))
    assert "cuda13.0" in image and "devel" in image and "ubuntu24.04" in image  # torch's CUDA; compilers; Python 3.12


def test_versions_are_those_of_the_project() -> None:
    defaults = dict(argument.split("=", 1) for argument in arguments("ARG") if "=" in argument)
    assert defaults["TORCH_VERSION"] == pins()["torch"]
    assert defaults["VLLM_VERSION"] == pins()["vllm"]
    assert defaults["TRANSFORMER_ENGINE_VERSION"] == pins()["transformer-engine"]
    assert re.fullmatch(r"[0-9a-f]{40}", defaults["APEX_COMMIT"])
    assert "cuda-bindings==" in (ROOT / "requirements" / "cpu.lock").read_text()  # what the Dockerfile replaces


def test_constraints_are_the_locks_pins_with_their_hashes_but_for_two(tmp_path: Path) -> None:
    lock = ROOT / "requirements" / "cpu.lock"
    (tmp_path / "cpu.lock").write_bytes(lock.read_bytes())
    (install,) = [run for run in arguments("RUN") if "cpu.lock" in run]
    commands = " && ".join(command for command in install.split("&&") if command.strip().startswith("sed "))
    commands = commands.replace("/opt/venv/", "")
    env = os.environ | {"CUDA_PYTHON_VERSION": "1.2.3"}
    subprocess.run(["bash", "-euc", commands], cwd=tmp_path, env=env, check=True)
    bundled = {line.split("==")[0]: line for line in entries(tmp_path / "constraints.txt")}
    locked = {line.split("==")[0]: line for line in entries(lock)}
    assert bundled.pop("cuda-python") == "cuda-python==1.2.3"
    del locked["apache-tvm-ffi"], locked["cuda-bindings"]
    assert bundled == locked
    assert entries(tmp_path / "pip.txt") == [locked["pip"]]


def test_whatever_pip_installs_is_checked_where_a_hash_is_known() -> None:
    commands = [command for run in arguments("RUN") for command in run.split("&&") if "pip install" in command]
    from_the_index = [command for command in commands if command.split()[-1] not in ("./apex", ".")]
    assert len(from_the_index) == 4
    for command in from_the_index:
        assert re.search("--no-require-hashes .*--constraint|--require-hashes --requirement", command), command


def test_the_base_cannot_pin_other_versions() -> None:
    for environment in arguments("ENV"):
        assert 'PIP_CONSTRAINT=""' in environment
    assert len(arguments("ENV")) == len(arguments("FROM"))


def test_the_build_ends_by_asserting_the_versions() -> None:
    name, last = instructions()[-1]
    assert name == "RUN" and "requirements/assert_versions.py" in last and "requirements/assert_cudnn.py &&" in last
    for distribution in ("megatron-core", "nemo-toolkit", "transformers"):
        assert f"{distribution}=={pins()[distribution]}" in last
    for distribution in ("torch", "vllm", "transformer-engine"):
        assert f'"{distribution}==${{' in last
    assert last.endswith(" apex")


TORCH_CUDNN = 92000  # as cudnnGetVersion has it


@pytest.fixture
def two_cudnns(tmp_path: Path) -> Path:
    """The base's library in base/, and torch's in venv/, which is /opt/venv in the image."""
    if shutil.which("cc") is None:
        pytest.skip("no C compiler to make two libraries called libcudnn")
    make_cudnn(tmp_path / "base", BASE_CUDNN)
    make_cudnn(tmp_path / "venv/lib/python3.12/site-packages/nvidia/cudnn/lib", TORCH_CUDNN)
    return tmp_path


def in_the_image(stage: int, root: Path, command: str) -> subprocess.CompletedProcess:
    """The command under a stage's ENV, /opt being the folder `root`, on a base that has a cuDNN of its own."""
    cudnn = re.search(r"^ARG CUDNN=(\S+)$", TEXT, re.MULTILINE)[1]
    environment = re.sub(r"\s(\w+)=", r"\n\1=", " " + arguments("ENV")[stage]).replace("/opt/venv/bin:", "")
    script = f"set -a\nCUDNN={root}{cudnn.removeprefix('/opt')}\n{environment}\nexec {command}"
    base = str(root / "base")
    env = {"LD_LIBRARY_PATH": base, "CUDA_HOME": base, "PATH": os.environ["PATH"]}
    return subprocess.run(["bash", "-c", script], env=env, capture_output=True, text=True)


@pytest.mark.parametrize("stage", [0, 1], ids=["builder", "runtime"])
def test_the_cudnn_that_is_loaded_is_torchs_and_not_the_bases(two_cudnns: Path, stage: int) -> None:
    folder = two_cudnns / "venv/lib/python3.12/site-packages/nvidia/cudnn/lib"
    program = "import ctypes; print(ctypes.CDLL('libcudnn.so.9').cudnnGetVersion())"
    command = f'{sys.executable} -c "{program}"'
    assert int(in_the_image(stage, two_cudnns, command).stdout) == TORCH_CUDNN
    check = f"{sys.executable} {ROOT / 'requirements' / 'assert_cudnn.py'}"
    assert in_the_image(stage, two_cudnns, check).returncode == 0
    without = in_the_image(stage, two_cudnns, f"env LD_LIBRARY_PATH={two_cudnns / 'base'} {check}")
    assert (
        without.returncode == 1 and f"loaded from {two_cudnns}/base/libcudnn.so.9, expected {folder}" in without.stderr
    )
    (folder / "libcudnn.so.9").unlink()
    assert "expected a folder with lib/libcudnn.so.9" in in_the_image(stage, two_cudnns, check).stderr


def test_transformer_engine_is_built_without_its_expert_parallel_part() -> None:
    (build,) = [run for run in arguments("RUN") if "transformer-engine[" in run]
    assert "NVTE_WITH_NCCL_EP=0" in build and "NVTE_FRAMEWORK=pytorch" in build


def test_apex_comes_from_its_source() -> None:
    assert any("github.com/NVIDIA/apex" in run and "APEX_CUDA_EXT=1" in run for run in arguments("RUN"))
    commands = [command for run in arguments("RUN") for command in run.split("&&") if "pip install" in command]
    assert not any(re.search(r"\sapex\b", command) for command in commands)


def test_it_runs_as_an_ordinary_user_with_a_health_check_and_labels() -> None:
    user = arguments("USER")[-1]
    assert user.isdigit() and int(user) > 0
    check = arguments("HEALTHCHECK")[0]
    assert json.loads(check[check.index("[") :])[0] == "curl"
    assert isinstance(json.loads(arguments("CMD")[-1]), list)
    for label in ("title", "version", "revision", "licenses"):
        assert f"org.opencontainers.image.{label}=" in arguments("LABEL")[0]


def test_what_is_copied_is_there_and_nothing_of_a_site_is() -> None:
    for copy in arguments("COPY"):
        if not copy.startswith("--from="):
            assert all((ROOT / source).exists() for source in copy.split()[:-1]), copy
    ignored = (ROOT / ".dockerignore").read_text().split()
    assert {".git", "runs", ".venv", "slurm/site.env", "models"} <= set(ignored)


def assert_versions(*requirements: str) -> subprocess.CompletedProcess:
    command = [sys.executable, ROOT / "requirements" / "assert_versions.py", *requirements]
    return subprocess.run(command, capture_output=True, text=True)


def test_asserting_versions_names_every_wrong_one() -> None:
    torch = pins()["torch"]
    assert assert_versions(f"torch=={torch}", "omegaconf").returncode == 0
    found = assert_versions("torch==1.0", f"omegaconf=={pins()['omegaconf']}", "no-such-thing==2")
    assert found.returncode == 1
    assert re.search(r"torch: found .*, expected 1.0\nno-such-thing: not installed, expected 2", found.stderr)


# registry/name:tag, and the digest of an image index where the build is pinned to one
PINNED = re.compile(r"[\w.-]+(/[\w.-]+)+:[\w.-]+(@sha256:[0-9a-f]{64})?")


def test_the_base_image_has_a_tag_and_a_well_formed_digest_if_any() -> None:
    (base,) = [value for value in arguments("ARG") if value.startswith("BASE=")]
    assert PINNED.fullmatch(base.removeprefix("BASE="))
    assert not base.endswith(":latest")
    assert not PINNED.fullmatch(base.removeprefix("BASE=").partition("@")[0] + "@sha256:0123")
