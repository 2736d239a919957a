"""The paper's whole pipeline in miniature, on two CPU cores; every part is the one that a cluster runs.

    ./run quickstart
    ./run quickstart grpo.steps=10 parallel.tensor=1

1. takes the tiny base model (made by recipes/make_tiny_model.py) and writes the embedded questions
2. labels their difficulty by sampling the base model, and draws a balanced subset
3. evaluates the base model on held-out questions: as it is, and made to begin by reasoning
4. trains with GRPO on the subset: Megatron-Core at TP=2 × PP=2, vLLM rollouts, binary reward
5. converts the last checkpoint to a Hugging Face folder and checks it
6. evaluates the trained model, whose card then shows it beside the base model
7. writes the report
"""

from __future__ import annotations

import dataclasses
import shutil

from evaluate import evaluate
from label_difficulty import label_difficulty
from prepare_data import prepare_data
from report import report
from rich.console import Console
from train_grpo import train_grpo

from alphamed_nemo.config import Config
from alphamed_nemo.data.corpus import FORCED_PREFIX
from alphamed_nemo.export.convert import convert_to_hf
from alphamed_nemo.launch.checks import check_run
from alphamed_nemo.launch.dtypes import announce_processor
from alphamed_nemo.launch.local import Launcher
from alphamed_nemo.launch.recipe import recipe
from alphamed_nemo.launch.servers import start_servers
from alphamed_nemo.launch.settings import write_config
from alphamed_nemo.report.progress import Stages
from alphamed_nemo.run_folder import RunFolder


def quickstart(cfg: Config) -> None:
    check_run(cfg)
    folder, stages, console = RunFolder.of(cfg), Stages(7), Console(highlight=False)
    if folder.config.exists():  # a run of its own each time, not the rest of the last one
        console.print(f"replacing the earlier run in {folder.root}")
        shutil.rmtree(folder.root)
    write_config(cfg, folder.config)
    with Launcher(folder.logs) as launcher:
        start_servers(cfg, launcher, cfg.model.path)  # they come up while the questions are written
        with stages.stage("Prepare", "questions of the embedded bank"):
            prepare_data(cfg)
        with stages.stage("Label", f"{cfg.label.samples} samples a question of the base model"):
            label_difficulty(cfg, launcher)
        with stages.stage("Evaluate the base model", "held-out questions"):
            evaluate(with_evaluation(cfg, cfg.model.path, "base"), launcher)
            evaluate(with_evaluation(cfg, cfg.model.path, "base, made to reason", FORCED_PREFIX), launcher)
        with stages.stage("Train", f"GRPO, TP={cfg.parallel.tensor} × PP={cfg.parallel.pipeline}"):
            train_grpo(cfg, launcher)
        launcher.stop("vllm")
        with stages.stage("Convert", "to Hugging Face"):
            convert_to_hf(cfg)
        with stages.stage("Evaluate the trained model", "the converted folder, in a fresh vLLM"):
            cfg.rollout.url = ""
            evaluate(with_evaluation(cfg, cfg.export.out, "trained"), launcher)
    with stages.stage("Report"):
        page = report(cfg, stages.seconds)
    console.print(f"report: {page}\nmodel:  {cfg.export.out}\nrun:    {folder.root}")


def with_evaluation(cfg: Config, model: str, label: str, force_prefix: str = "") -> Config:
    """The run's settings with another model to evaluate."""
    wanted = dataclasses.replace(cfg.evaluate, model=model, label=label, force_prefix=force_prefix)
    return dataclasses.replace(cfg, evaluate=wanted)


@recipe("quickstart")
def main(cfg: Config) -> None:
    announce_processor(cfg)
    quickstart(cfg)


if __name__ == "__main__":
    main()
