"""The paper's whole pipeline in miniature, on two CPU cores; every part is the one that a cluster runs.

    ./run quickstart  # a tiny base model on an invented clinic
    ./run quickstart experiment=smollm2 run.name=smollm2  # a real model (recipes/fetch_smollm2.py), real questions
    ./run quickstart grpo.steps=10 parallel.tensor=1

1. takes the base model and writes the questions that come with the project
2. labels their difficulty by sampling the base model, and draws a subset
3. evaluates the base model on held-out questions: as it is, and with what a prompt alone can do for it
4. trains with GRPO on the subset: Megatron-Core (the clinic at TP=2 × PP=2), vLLM rollouts, binary reward
5. converts the last checkpoint to a Hugging Face folder and checks it
6. evaluates the trained model, whose card then shows it beside the base model
7. writes the report
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

from evaluate import evaluate
from label_difficulty import label_difficulty
from prepare_data import prepare_data
from report import report
from rich.console import Console
from train_grpo import train_grpo

from alphamed_nemo.cli.derived import fill_derived
from alphamed_nemo.cli.here import check_here
from alphamed_nemo.cli.preflight import check_run, check_training
from alphamed_nemo.cli.progress import Stages, Waiting
from alphamed_nemo.cli.recipe import recipe
from alphamed_nemo.cli.run_start import own_quickstart
from alphamed_nemo.clinic.corpus import FORCED_PREFIX
from alphamed_nemo.config import Config
from alphamed_nemo.config.run_folder import RunFolder
from alphamed_nemo.fetch import smollm2
from alphamed_nemo.launch.components import announce_processor
from alphamed_nemo.launch.local import Launcher
from alphamed_nemo.launch.servers import start_servers, stop_rollout_servers


def quickstart(cfg: Config) -> None:
    fetch_base(cfg)
    check_here(cfg, check_run(cfg))
    with own_quickstart(cfg) as folder:  # a run of its own each time, not the rest of the last one
        run_stages(cfg, folder)


def fetch_base(cfg: Config) -> None:
    """Fetches SmolLM2 where it is the base model and not there yet."""
    if Path(cfg.model.path).name == smollm2.NAME and not Path(cfg.model.path).exists():
        smollm2.fetch_smollm2(Path(cfg.model.path))
        fill_derived(cfg)  # the chat template follows the model


def run_stages(cfg: Config, folder: RunFolder) -> None:
    stages, console = Stages(7), Console(highlight=False)
    with Launcher(folder.logs, Waiting()) as launcher:
        start_servers(cfg, launcher, cfg.model.path)
        about = f"starting vLLM and the reward server, loading PyTorch and Megatron-Core; logs: {folder.logs}"
        console.print(about, soft_wrap=True)
        from alphamed_nemo.export.convert import convert_to_hf  # torch and Megatron: seconds, in which they come up

        with stages.stage("Prepare", f"questions ({cfg.data.source})"):
            prepare_data(cfg)
        with stages.stage("Label", f"{cfg.label.samples} samples per question from the base model"):
            label_difficulty(cfg, launcher)
        with stages.stage("Evaluate the base model", "held-out questions"):
            evaluate(with_evaluation(cfg, cfg.model.path, "base"), launcher)
            evaluate(with_prompting(cfg), launcher)
        with stages.stage("Train", f"GRPO, {cfg.parallel.world_size} ranks"):
            check_training(cfg)
            train_grpo(cfg, launcher)
        stop_rollout_servers(cfg, launcher)
        with stages.stage("Convert", "to Hugging Face"):
            convert_to_hf(cfg)
        with stages.stage("Evaluate the trained model", "the converted folder, in a fresh vLLM"):
            evaluate(with_evaluation(cfg, cfg.export.out, "trained"), launcher)
    with stages.stage("Report"):
        page = report(cfg, stages.seconds)
    console.print(f"report: {page}\nmodel:  {cfg.export.out}\nrun:    {folder.root}", soft_wrap=True)
    console.print(f"talk to the model: ./run chat run.name={cfg.run.name}", soft_wrap=True)


def with_evaluation(cfg: Config, model: str, label: str, force_prefix: str = "") -> Config:
    """The run's settings with another model to evaluate."""
    wanted = dataclasses.replace(cfg.evaluate, model=model, label=label, force_prefix=force_prefix)
    return dataclasses.replace(cfg, evaluate=wanted)


def with_prompting(cfg: Config) -> Config:
    """The base model with what a prompt can do without training: a table without this row would mislead.

    The clinic's is made to begin by reasoning; a model that is asked by `data.prompt=one_of` sees two worked examples.
    """
    if cfg.data.prompt != "one_of":
        return with_evaluation(cfg, cfg.model.path, "base, made to reason", FORCED_PREFIX)
    shown = dataclasses.replace(cfg, data=dataclasses.replace(cfg.data, prompt="one_of_shown"))
    return with_evaluation(shown, cfg.model.path, "base, shown how to answer")


@recipe("quickstart")
def main(cfg: Config) -> None:
    announce_processor(cfg)
    quickstart(cfg)


if __name__ == "__main__":
    main()
