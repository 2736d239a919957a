"""The paper's three studies: how the quantity, the diversity and the difficulty of the questions change the result.

    ./run study study.name=quantity    # on the invented clinic: 120 to 960 questions, three seeds of each
    ./run study study.name=diversity   # sources of questions that join one by one
    ./run study study.name=difficulty  # levels that join, from the easiest on
    ./run study study.name=quantity study.dry_run=true  # only print the commands of the runs that are missing

1. takes the questions, labels their difficulty once, and evaluates the base model once
2. for each seed and variant: draws the subset, trains, converts the last checkpoint, evaluates it
3. after each run: writes study.json and report/index.html, with intervals over seeds

Every run has the same number of steps and the same batch. A study that was stopped resumes: finished runs are kept,
and the one that was under way goes on from its newest checkpoint. On a Slurm cluster `study.slurm=8b` submits what is
missing as jobs; the same command, given again once they have ended, submits what follows or writes the page
(docs/studies.md).
"""

from __future__ import annotations

import copy
import dataclasses
import logging
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from evaluate import evaluate, file_name
from label_difficulty import label_difficulty
from prepare_data import prepare_data
from quickstart import fetch_base, with_evaluation, with_prompting
from rich.console import Console
from train_grpo import train_grpo

from alphamed_nemo.cli.here import check_here
from alphamed_nemo.cli.preflight import check_run
from alphamed_nemo.cli.progress import Stages, Waiting
from alphamed_nemo.cli.recipe import recipe
from alphamed_nemo.cli.run_start import owned, training
from alphamed_nemo.config import Config
from alphamed_nemo.config.files import write_config
from alphamed_nemo.config.run_folder import RunFolder
from alphamed_nemo.data.io import read_questions, write_questions
from alphamed_nemo.launch.components import announce_processor
from alphamed_nemo.launch.local import Launcher
from alphamed_nemo.launch.servers import start_servers, stop_rollout_servers
from alphamed_nemo.study.outcome import BASE, read_outcome
from alphamed_nemo.study.study_commands import check_experiment, first_commands, job_command, run_commands
from alphamed_nemo.study.study_page import headline, write_study
from alphamed_nemo.study.study_record import write_record
from alphamed_nemo.study.study_runs import StudyRun, check_draws, check_earlier, pool_of, runs_of
from alphamed_nemo.study.variants import Variant, by_source, check_questions, variants_of

ROOT = Path(__file__).resolve().parents[1]
PROMPTED = ("tiny", "one_of")  # forms of the prompt for which it is known what a prompt alone can do

log = logging.getLogger(__name__)


def study(cfg: Config, words: Sequence[str]) -> None:
    """Does what is missing of a study, or prints or submits it.

    Args:
        cfg: the study.
        words: of its command line.
    """
    variants = variants_of(cfg)
    runs = runs_of(cfg, variants)
    check_earlier(cfg, runs)
    check_experiment(cfg, words)
    if not (cfg.study.dry_run or cfg.study.slurm):
        fetch_base(cfg)
        check_here(cfg, check_run(cfg))
        announce_processor(cfg)
    with owned(cfg, "study") as folder:
        prepare(cfg, variants, folder)
        if cfg.study.dry_run or cfg.study.slurm:
            hand_out(cfg, runs, words)
            tell(cfg, variants, runs)
        else:
            run_here(cfg, variants, runs)


def prepare(cfg: Config, variants: Sequence[Variant], folder: RunFolder) -> None:
    """The questions, once; and whether there are enough of them."""
    if not (Path(cfg.data.train).is_file() and Path(cfg.data.heldout).is_file()):
        prepare_data(cfg)
    questions = read_questions(cfg.label.questions)
    by = cfg.study.sources_by
    check_questions(cfg, variants, by_source(questions, by) if by else questions)
    write_config(cfg, folder.config)


def run_here(cfg: Config, variants: Sequence[Variant], runs: Sequence[StudyRun]) -> None:
    """Everything on this machine, one run after another; the page after each."""
    missing = [run for run in runs if not run.is_finished]
    stages = Stages(1 + len(missing))
    with stages.stage("Label and evaluate the base model", "once, for all runs"):
        label_and_evaluate(cfg)
        keep_pool(cfg)
        check_draws(missing, cfg)
    for run in missing:
        with stages.stage(f"{run.variant.name}, seed {run.seed}", f"{run.folder.root}"):
            carry_out(run)
        tell(cfg, variants, runs)
    if not missing:
        tell(cfg, variants, runs)


def label_and_evaluate(cfg: Config) -> None:
    """Levels of all questions, and what the base model answers before training, with one start of the servers."""
    folder, cfg = RunFolder.of(cfg), copy.deepcopy(cfg)  # which gets the servers' addresses
    every = dataclasses.replace(cfg, label=dataclasses.replace(cfg.label, subset="all"))
    wanted = [with_evaluation(every, cfg.model.path, BASE)]
    if cfg.data.prompt in PROMPTED:
        wanted.append(with_prompting(every))
    if folder.labelled.is_file() and all(
        (folder.eval / f"{file_name(each.evaluate.label)}.json").is_file() for each in wanted
    ):
        log.info("the levels and the base model's evaluation are there already")
        return
    with Launcher(folder.logs, Waiting()) as launcher:
        if not folder.labelled.is_file():
            label_difficulty(every, launcher)
        for each in wanted:
            evaluate(each, launcher)


def keep_pool(cfg: Config) -> None:
    """Writes the labelled questions by source, where that is not their data set."""
    if cfg.study.sources_by:
        labelled = read_questions(RunFolder.of(cfg).labelled)
        write_questions(by_source(labelled, cfg.study.sources_by), pool_of(cfg))


def carry_out(run: StudyRun) -> None:
    """One run, from its subset to its evaluation; what of it is there already is kept."""
    cfg, folder = run.cfg, run.folder
    with Launcher(folder.logs, Waiting()) as launcher:
        if not folder.done.exists():
            start_servers(cfg, launcher, cfg.model.path)
            draw_subset(run, launcher)
            with training(cfg, "study"):
                train_grpo(cfg, launcher)
            stop_rollout_servers(cfg, launcher)
        if not folder.hf.exists():
            from alphamed_nemo.export.convert import convert_to_hf  # torch and Megatron, which take seconds

            convert_to_hf(cfg)
        evaluate(with_evaluation(cfg, cfg.export.out, cfg.evaluate.label), launcher)


def draw_subset(run: StudyRun, launcher: Launcher) -> None:
    """Draws it from the labels that are there, so that nothing is asked."""
    with owned(run.cfg, "study"):
        label_difficulty(run.cfg, launcher)


def hand_out(cfg: Config, runs: Sequence[StudyRun], words: Sequence[str]) -> None:
    """Prints the commands of what is missing, or submits it as jobs."""
    console, folder = Console(highlight=False, soft_wrap=True), RunFolder.of(cfg)
    labelled = folder.labelled.is_file()
    if not labelled or not (folder.eval / f"{BASE}.json").is_file():
        for command in first_commands(cfg, words, labelled):
            submit_or_print(command, cfg, console)
    if labelled:
        keep_pool(cfg)
        missing = [run for run in runs if not run.is_finished]
        check_draws(missing, cfg)
        for run in missing:
            hand_out_run(run, words, cfg, console)
    else:
        console.print("then this command again, which draws the subsets from the levels", markup=False)


def hand_out_run(run: StudyRun, words: Sequence[str], cfg: Config, console: Console) -> None:
    if not cfg.study.slurm:
        console.print("\n".join(run_commands(run, words)), markup=False)
        return
    if not cfg.study.dry_run:
        draw_subset(run, Launcher(run.folder.logs))
    submit_or_print(job_command(run, words, cfg.study.slurm), cfg, console)


def submit_or_print(command: Sequence[str], cfg: Config, console: Console) -> None:
    """Raises ValueError where the job was not accepted, with what Slurm said."""
    console.print(shlex.join(command), markup=False)
    if cfg.study.slurm and not cfg.study.dry_run:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        if done.returncode:
            raise ValueError(f"{command[0]}: not submitted: {done.stderr.strip() or done.stdout.strip()}")
        console.print(done.stdout.rstrip(), markup=False)


def tell(cfg: Config, variants: Sequence[Variant], runs: Sequence[StudyRun]) -> None:
    """Writes study.json and the page of what is finished, if anything is."""
    if not any(run.is_finished for run in runs):
        return
    outcome = read_outcome(cfg, variants, runs)
    write_record(outcome)
    log.info("%s\n%d of %d runs: %s", headline(outcome), outcome.runs, outcome.planned, write_study(outcome))


@recipe("study")
def main(cfg: Config) -> None:
    study(cfg, sys.argv[1:])


if __name__ == "__main__":
    main()
