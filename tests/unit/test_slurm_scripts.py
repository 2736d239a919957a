"""The sbatch scripts: their headers, and that bash and shellcheck find nothing in them."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from alphamed_nemo.cli.recipe import composed

ROOT = Path(__file__).resolve().parents[2]
SHELL = sorted([*ROOT.glob("slurm/*.sh"), *ROOT.glob("tests/slurm/*.sh"), ROOT / "run", ROOT / ".ci" / "run"])
JOBS = sorted(path for path in ROOT.glob("slurm/*.sh") if "\n#SBATCH" in path.read_text())
TRAINING = [path for path in JOBS if path.name.startswith("grpo")]
SIZES = {
    line.split()[0]: line.split()[1:]
    for line in (ROOT / "slurm" / "sizes").read_text().splitlines()
    if not line.startswith("#")
}  # nodes, time, lead, model


def header(path: Path) -> dict[str, str]:
    found = re.findall(r"^#SBATCH --([a-z-]+)=?(\S*)$", path.read_text(), re.MULTILINE)
    assert len(found) == len(dict(found))
    return dict(found)


def tool(name: str) -> str:
    found = shutil.which(name, path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    if found is None:
        pytest.skip(f"no {name}; it is among the project's dev requirements")
    return found


def test_every_size_and_stage_has_its_script() -> None:
    assert {f"grpo_{size}" for size in SIZES} == {path.stem for path in ROOT.glob("conf/experiment/grpo_*.yaml")}
    assert {path.stem for path in TRAINING} == {"grpo", "grpo_tiny", "grpo_8b"}
    assert {"label", "convert", "evaluate", "report"} <= {path.stem for path in JOBS}


@pytest.mark.parametrize("path", SHELL, ids=lambda path: path.name)
def test_shellcheck_finds_nothing(path: Path) -> None:
    found = subprocess.run([tool("shellcheck"), "-x", path], cwd=ROOT, capture_output=True, text=True)
    assert found.returncode == 0, found.stdout


@pytest.mark.parametrize("path", JOBS, ids=lambda path: path.name)
def test_a_header_says_nothing_of_a_site_and_nothing_that_leaks_into_steps(path: Path) -> None:
    options = header(path)
    assert not {"account", "partition", "qos", "reservation"} & set(options)
    # Each would be taken over by every srun, whatever that srun says itself.
    assert not {"ntasks", "ntasks-per-node", "cpus-per-task"} & set(options)
    assert options["open-mode"] == "append"  # a requeued job goes on in the same log
    assert (ROOT / options["output"]).parent.is_dir()  # Slurm fails a job without a word where it is missing
    assert os.access(path, os.X_OK)


@pytest.mark.parametrize("path", TRAINING, ids=lambda path: path.name)
def test_training_jobs_hear_of_their_end_in_time_and_can_be_requeued(path: Path) -> None:
    options = header(path)
    assert re.fullmatch(r"B:USR1@\d+", options["signal"]) and int(options["signal"].split("@")[1]) >= 120
    assert "requeue" in options and options["dependency"] == "singleton"


@pytest.mark.parametrize("size", SIZES)
def test_the_nodes_of_a_size_are_those_that_its_layout_needs(size: str) -> None:
    cfg = composed("train_grpo", [f"experiment=grpo_{size}"])
    nodes, _, _, model = SIZES[size]
    training = int(nodes) - (cfg.rollout.servers if cfg.rollout.placement == "separate" else 0)
    assert cfg.parallel.world_size == training * int(header(ROOT / "slurm" / "grpo.sh")["gpus-per-node"])
    assert Path(cfg.model.path).name == model


def test_the_script_of_8b_asks_for_what_the_table_says() -> None:
    options = header(ROOT / "slurm" / "grpo_8b.sh")
    assert [options["nodes"], options["time"], options["signal"].removeprefix("B:USR1@")] == SIZES["8b"][:3]


def recorded(folder: Path, *command: str) -> tuple[subprocess.CompletedProcess, list[list[str]]]:
    """A script's run, and the words of each call of sbatch."""
    (folder / "sbatch").write_text(f'#!/bin/sh\necho "$@" >>{folder}/submitted\nwc -l <{folder}/submitted\n')
    (folder / "sbatch").chmod(0o755)
    env = {name: value for name, value in os.environ.items() if not name.startswith("SLURM_")}
    env |= {"ALPHAMED_SITE": "none", "PATH": f"{folder}:{os.environ['PATH']}"}
    done = subprocess.run(["bash", *command], cwd=ROOT, env=env, capture_output=True, text=True)
    file = folder / "submitted"
    return done, [line.split() for line in file.read_text().splitlines()] if file.exists() else []


@pytest.mark.parametrize("size", SIZES)
def test_a_size_submits_itself_with_what_the_table_says(size: str, tmp_path: Path) -> None:
    done, (words,) = recorded(tmp_path, "slurm/grpo.sh", size, "--nodes=7", "grpo.steps=3", "run.name=mine")
    assert done.returncode == 0, done.stderr
    nodes, limit, lead, _ = SIZES[size]
    assert words == [
        f"--job-name=grpo_{size}", f"--nodes={nodes}", f"--time={limit}", f"--signal=B:USR1@{lead}",
        "--nodes=7", "--job-name=mine", "slurm/grpo.sh", size, "grpo.steps=3", "run.name=mine",
    ]  # fmt: skip


@pytest.mark.parametrize("script", ["grpo.sh", "pipeline.sh"])
@pytest.mark.parametrize("size", [[], ["9b"], ["--dry-run"]], ids=str)
def test_a_size_that_is_not_in_the_table_is_refused_in_one_line(script: str, size: list[str], tmp_path: Path) -> None:
    done, submitted = recorded(tmp_path, f"slurm/{script}", *size)
    assert (done.returncode, submitted) == (2, [])
    (line,) = done.stderr.splitlines()
    assert f"error: found size '{''.join(size)}', expected one of 3b llama32_3b" in line


def test_the_chain_orders_its_stages_and_its_dry_run_submits_nothing(tmp_path: Path) -> None:
    env = os.environ | {"ALPHAMED_SITE": "none", "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    sbatch = tmp_path / "sbatch"
    sbatch.write_text(f'#!/bin/sh\necho "$@" >>{tmp_path}/submitted\nwc -l <{tmp_path}/submitted\n')
    sbatch.chmod(0o755)
    command = [ROOT / "slurm" / "pipeline.sh", "8b", "--qos=short", "--nodes=3", "run.name=mine"]
    shown = subprocess.run([*command, "--dry-run"], env=env, capture_output=True, text=True, check=True).stderr
    assert shown.count("sbatch --parsable") == 6 and not (tmp_path / "submitted").exists()
    subprocess.run(command, env=env, capture_output=True, text=True, check=True)
    lines = [line.split() for line in (tmp_path / "submitted").read_text().splitlines()]
    scripts = [next(word for word in line if word.startswith("slurm/")) for line in lines]
    assert scripts == [f"slurm/{name}.sh" for name in ("evaluate", "label", "grpo", "convert", "evaluate", "report")]
    after = [next((word for word in line if word.startswith("--dependency=")), "") for line in lines]
    # Job n is the n-th submitted.
    expected = ["", "", "afterok:2,singleton", "afterok:3", "afterok:4", "afterok:5:1"]
    assert after == [name and f"--dependency={name}" for name in expected]
    assert all("--qos=short" in line and "run.name=mine" in line and "experiment=grpo_8b" in line for line in lines)
    assert "--job-name=mine" in lines[2]
    assert ["--nodes=3" in line for line in lines] == [script == "slurm/grpo.sh" for script in scripts]
    assert lines[2][lines[2].index("slurm/grpo.sh") + 1] == "8b" and "--time=12:00:00" in lines[2]


def test_a_chain_can_start_at_a_later_stage(tmp_path: Path) -> None:
    command = [ROOT / "slurm" / "pipeline.sh", "8b", "--from=convert", "--dry-run"]
    env = os.environ | {"ALPHAMED_SITE": "none"}
    shown = subprocess.run(command, env=env, capture_output=True, text=True, check=True).stderr.splitlines()
    assert [re.search(r"slurm/(\w+)\.sh", line)[1] for line in shown] == ["convert", "evaluate", "report"]


def container_environment(cache: Path) -> tuple[dict[str, str], list[str]]:
    """What a job exports for its containers, and the names whose values win over the image's own."""
    script = """
        source slurm/common.sh
        PORT_BASE=1 container_options
        for option in "${CONTAINER[@]}"; do [[ $option == --container-env=* ]] && printf '%s\\0' "$option"; done
        exec env -0
    """
    env = {"PATH": os.environ["PATH"], "ALPHAMED_SITE": "none", "ALPHAMED_IMAGE": "image", "ALPHAMED_CACHE": str(cache)}
    done = subprocess.run(["bash", "-ec", script], cwd=ROOT, env=env, capture_output=True, text=True, check=True)
    listed, *variables = done.stdout.rstrip("\0").split("\0")
    return dict(line.split("=", 1) for line in variables), listed.partition("=")[2].split(",")


def test_what_libraries_write_goes_to_the_cache_in_a_container(tmp_path: Path) -> None:
    env, listed = container_environment(tmp_path)
    for name in ("FLASHINFER_WORKSPACE_BASE", "CUDA_CACHE_PATH", "TRITON_CACHE_DIR", "VLLM_CACHE_ROOT", "HF_HOME"):
        assert name in listed
    assert {"PYTHONPATH", "HF_HUB_OFFLINE", "XDG_CACHE_HOME"} < set(listed)
    folders = [Path(env[name]) for name in {*listed} - {"PYTHONPATH", "HF_HUB_OFFLINE", "NVIDIA_VISIBLE_DEVICES"}]
    assert all(folder.is_relative_to(tmp_path) for folder in folders)
    assert len(set(folders)) == len(folders) == 11


@pytest.mark.parametrize(("call", "expected"), [("on_each_node", "void"), ("on_first_node", "all")])
def test_only_steps_that_have_gpus_see_some_in_a_container(tmp_path: Path, call: str, expected: str) -> None:
    """Images of CUDA say NVIDIA_VISIBLE_DEVICES=all, and the job's own value wins where --container-env lists it."""
    srun = tmp_path / "srun"
    srun.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    srun.chmod(0o755)
    script = f"""
        source slurm/common.sh
        container_options
        HOSTS=(n1) SLURM_JOB_NUM_NODES=1
        GPUS=8 {call} name true
        GPUS=0 {call} name true
    """
    env = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "ALPHAMED_SITE": "none", "ALPHAMED_IMAGE": "image"}
    shown = subprocess.run(
        ["bash", "-ec", script], cwd=ROOT, env=env, capture_output=True, text=True, check=True
    ).stdout
    words = shown.splitlines()
    exports = [word for word in words if word.startswith("--export=")]
    assert exports == [f"--export=ALL,NVIDIA_VISIBLE_DEVICES={value}" for value in (expected, "void")]
    listed = [word for word in words if word.startswith("--container-env=")]
    assert len(listed) == 2 and all("NVIDIA_VISIBLE_DEVICES" in word.partition("=")[2].split(",") for word in listed)


# What the libraries themselves make of these variables, and one kernel that is compiled and kept.
WRITERS = """
import sys
import huggingface_hub.constants, matplotlib, numba, torch, vllm.envs
from torch._inductor.runtime.cache_dir_utils import cache_dir
found = [huggingface_hub.constants.HF_HOME, matplotlib.get_cachedir(), matplotlib.get_configdir()]
found += [numba.config.CACHE_DIR, vllm.envs.VLLM_CACHE_ROOT, vllm.envs.VLLM_CONFIG_ROOT, cache_dir()]
torch.compile(lambda x: (x.sin() + 1).cos())(torch.ones(64))
import alphamed_nemo.grpo.worker, alphamed_nemo.rewards.server, nemo.utils.exp_manager, vllm.entrypoints.cli.main
print("\\n".join(map(str, found)))
"""


@pytest.mark.nightly
def test_trainer_rewards_and_vllm_start_where_nothing_can_be_written_at_home(tmp_path: Path) -> None:
    env, _ = container_environment(tmp_path)
    # A home of which nothing can be made: in one that is read-only, root could still write.
    env |= {"HOME": "/dev/null/home", "PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", WRITERS], cwd=ROOT, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = [Path(line) for line in done.stdout.splitlines()[-7:]]
    assert len(found) == 7 and all(path.is_relative_to(tmp_path) for path in found), found
    assert any((tmp_path / "inductor").rglob("*.so"))
