"""The project's Dockerfile, built on a stand-in for its base, and what is in the image. Takes minutes and gigabytes."""

from __future__ import annotations

import json
import shlex
import subprocess
from pathlib import Path

import pytest

from alphamed_nemo.rollout.vllm_command import PLUGIN
from tests.image.buildah import BuildError, Container
from tests.image.conftest import REVISION, Image
from tests.image.dockerfile import argument, last_instruction_on
from tests.image.stand_in import BASE_CUDNN, CONSTRAINT, OTHER_TRANSFORMERS
from tests.unit.test_slurm_scripts import container_environment

# `vllm serve --help=all`. Its command line shows defaults, for which it asks the platform, and where there is no GPU
# vLLM's CUDA build finds none; nor could its kernels be loaded, without the driver's library.
HELP_WITHOUT_A_GPU = """
import sys
import vllm.platforms
from vllm.platforms.interface import UnspecifiedPlatform

class AsIfCuda(UnspecifiedPlatform):
    device_type = "cuda"
    import_kernels = classmethod(lambda cls: None)

vllm.platforms._current_platform = AsIfCuda()
from vllm.entrypoints.cli.main import main
sys.argv = ["vllm", "serve", "--help=all"]
main()
"""


@pytest.fixture(scope="module")
def container(image: Image) -> Container:
    return image.container()


@pytest.fixture(scope="module")
def config(image: Image) -> dict:
    """The image's own configuration, as docker would read it."""
    return json.loads(image.buildah.command("inspect", "--type=image", image.tag))["Docker"]["config"]


def version(container: Container, distribution: str) -> str:
    program = f"import importlib.metadata as metadata; print(metadata.version({distribution!r}))"
    return container.run("python", "-c", program).strip().split("+")[0]


def test_the_build_ends_with_the_projects_versions(image: Image, container: Container) -> None:
    assert "assert_versions.py" in image.output
    assert container.run("python", "--version").startswith("Python 3.12.")
    assert version(container, "torch") == argument("TORCH_VERSION")
    assert version(container, "vllm") == argument("VLLM_VERSION")


def test_installed_packages_agree_with_each_other(container: Container) -> None:
    assert "No broken requirements found" in container.run("pip", "check")


def test_no_other_package_has_overwritten_cudas_bindings(container: Container) -> None:
    loaded = container.run("python", "-c", "import cuda.bindings; print(cuda.bindings.__version__)").strip()
    assert loaded == version(container, "cuda-bindings") == argument("CUDA_PYTHON_VERSION")


def test_the_cudnn_that_is_loaded_is_torchs_although_the_base_has_one(image: Image, container: Container) -> None:
    program = "import ctypes; print(ctypes.CDLL('libcudnn.so.9').cudnnGetVersion())"
    major, minor, patch = map(int, version(container, "nvidia-cudnn-cu13").split(".")[:3])
    assert int(container.run("python", "-c", program)) == major * 10_000 + minor * 100 + patch
    assert int(container.run("env", "-u", "LD_LIBRARY_PATH", "python", "-c", program)) == BASE_CUDNN


def test_flashinfer_and_vllm_start_where_nothing_can_be_written_at_home(image: Image) -> None:
    container = image.container()
    caches = container_environment(Path("/tmp/cache"))[0]
    variables = {name: value for name, value in caches.items() if value.startswith("/tmp/cache")}
    variables |= {"HOME": "/dev/null/home", "VLLM_PLUGINS": PLUGIN}
    container.run("python", "-c", "import flashinfer", **variables)
    assert "--tensor-parallel-size" in container.run("python", "-c", HELP_WITHOUT_A_GPU, **variables)


def test_the_base_does_pin_other_versions_and_the_image_does_not_obey(container: Container) -> None:
    install = ("pip", "install", "--dry-run", "--no-deps", "--no-index", f"torch=={argument('TORCH_VERSION')}")
    container.run(*install)
    with pytest.raises(BuildError, match="conflicting dependencies"):
        container.run(*install, PIP_CONSTRAINT=CONSTRAINT)


def test_a_version_that_the_base_pins_fails_the_build(image: Image, tmp_path: Path) -> None:
    dockerfile = tmp_path / "Dockerfile"
    install = f"RUN PIP_CONSTRAINT={CONSTRAINT} pip install --no-deps --upgrade --force-reinstall transformers"
    dockerfile.write_text(last_instruction_on(image.tag, "USER root", install))
    with pytest.raises(BuildError, match=f"transformers: found {OTHER_TRANSFORMERS}, expected"):
        image.buildah.build(dockerfile, tmp_path, "localhost/other-version", *image.mounts)


@pytest.fixture(scope="module")
def without_transformer_engine(image: Image) -> Container:
    """Where Megatron finds Transformer Engine it imports it, and the stand-in for its extension cannot be loaded."""
    container = image.container()
    container.run("bash", "-c", "rm -r /opt/venv/lib/python3.*/site-packages/transformer_engine*", user="root")
    return container


def test_what_runs_imports_without_a_gpu(without_transformer_engine: Container) -> None:
    program = "import megatron.core, nemo, torch, transformers, vllm, alphamed_nemo.grpo.trainer; print('imported')"
    assert "imported" in without_transformer_engine.run("python", "-c", program).splitlines()


def test_the_image_serves_rewards_as_an_ordinary_user_and_says_that_it_is_well(
    image: Image, container: Container, config: dict
) -> None:
    assert config["User"] == container.run("id", "-u").strip() != "0"
    kind, *check = config["Healthcheck"]["Test"]
    assert kind == "CMD"
    script = f"""
        {shlex.join(config["Cmd"])} & server=$!
        until {shlex.join(check)}; do kill -0 $server || exit 1; sleep 0.2; done
        echo well
        kill $server
        wait $server
    """
    # A network of its own: the port may be taken on this machine's.
    alone = ["unshare", "--net", "sh", "-c", 'ip link set lo up && exec "$@"', "sh"]
    run = image.buildah.words("run", "--isolation=chroot", container.name, "--", "bash", "-c", script)
    done = subprocess.run([*alone, *run], capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "well"), done.stdout + done.stderr


def test_a_recipe_runs_in_the_image(without_transformer_engine: Container) -> None:
    planned = without_transformer_engine.run("python", "recipes/plan.py", "experiment=grpo_8b")
    assert "Verdict\n  fits\n" in planned


def test_the_image_says_what_it_is(config: dict) -> None:
    labels = {name.rpartition(".")[2]: value for name, value in config["Labels"].items()}
    assert labels["title"] == "AlphaMed-NeMo"
    assert labels["revision"] == REVISION
    assert labels["version"] == argument("VERSION")
    assert labels["licenses"] == "Apache-2.0"


def test_nothing_of_the_machine_is_in_the_image(container: Container) -> None:
    found = container.run("bash", "-c", "ls -A; cat /etc/pip.conf 2>/dev/null || true").split()
    assert "alphamed_nemo" in found
    assert not {".git", ".venv", "tests", "runs", "[global]"} & set(found)
