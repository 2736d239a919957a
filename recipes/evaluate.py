"""Asks a model the held-out questions through vLLM, grades the answers, and prints accuracy with 95% intervals.

python recipes/evaluate.py run.name=my_run  # the run's converted model
python recipes/evaluate.py run.name=my_run model.path=<base> evaluate.model=runs/my_run/checkpoints/step_20
python recipes/evaluate.py evaluate.model=<folder> evaluate.questions=<file> evaluate.protocol=lenient
python recipes/evaluate.py evaluate.model=<folder> 'evaluate.against=[<run>/eval/base.json]'  # and a paired test
python recipes/evaluate.py evaluate.responses=<file> evaluate.questions=<file>  # saved responses, no model
python recipes/evaluate.py run.name=my_run evaluate.suite=paper  # the prepared sets: paper, medmarks, robust
python recipes/evaluate.py 'evaluate.compare=[<run>/eval/base.json,<run>/eval/trained.json]'  # results, no model

Results go to <run>/eval/<label>.json with every response's grade, and tables of all the run's results, beside the
published numbers, to <run>/eval/tables.md. A result of the weights in <run>/hf, or of their base model, goes to that
folder's model card, too. A suite's go to <run>/eval/<label>-<suite>/: a file for each set, suite.md, and results_*.json
in the form of lm-evaluation-harness. A killed evaluation resumes where it stopped.
"""

from __future__ import annotations

import dataclasses
import logging
import re
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from alphamed_nemo.cli.here import check_serving
from alphamed_nemo.cli.preflight import check_model_folder, check_positions, check_questions
from alphamed_nemo.cli.progress import Waiting, counter
from alphamed_nemo.cli.recipe import recipe
from alphamed_nemo.config import Config
from alphamed_nemo.config.run_folder import RunFolder
from alphamed_nemo.data.hf_tokenizer import load_tokenizer
from alphamed_nemo.evaluation import engine
from alphamed_nemo.evaluation.result import EvaluationResult
from alphamed_nemo.evaluation.suite_page import PAGE, write_suite
from alphamed_nemo.evaluation.suites import Task, tasks_of
from alphamed_nemo.evaluation.tables import comparison_line, write_comparison, write_tables
from alphamed_nemo.export.card_results import update_card
from alphamed_nemo.launch.components import announce_processor
from alphamed_nemo.launch.local import Launcher
from alphamed_nemo.launch.servers import resumed, rollout_pool, start_servers, watched
from alphamed_nemo.provenance import release_run

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

log = logging.getLogger(__name__)


def evaluate(cfg: Config, launcher: Launcher) -> EvaluationResult:
    """Evaluates `evaluate.model`, which must be what running rollout servers serve, if there are some."""
    wanted = cfg.evaluate
    questions = check_questions(wanted.questions, "evaluate.questions")
    out = RunFolder.of(cfg).eval / f"{file_name(wanted.label)}.json"
    if wanted.responses:
        with counter("questions", len(questions)) as progress:
            result = engine.score_saved(questions, wanted.responses, wanted.protocol, wanted.label, out, progress)
    else:
        tokenizer = start(cfg, launcher)
        pool = rollout_pool(cfg, launcher, wanted.model)
        with counter("questions", len(questions)) as progress:
            on_progress = watched(launcher, progress)
            arguments = (questions, pool, tokenizer, cfg, wanted.label, out, wanted.force_prefix, on_progress)
            result = resumed(cfg, launcher, lambda: engine.evaluate(*arguments))
    summary = result.summary
    low, high = summary.interval
    log.info(
        "%s: accuracy %.1f%% (95%% interval %.1f to %.1f, n = %d), %d unanswered, %.0f tokens per response",
        wanted.label,
        *(100 * value for value in (summary.accuracy, low, high)),
        summary.n,
        summary.unanswered_count,
        result.mean_length or 0,
    )
    update_cards(cfg)
    return result


def evaluate_suite(cfg: Config, launcher: Launcher) -> Path:
    """Asks every task of `evaluate.suite` with one start of the servers, and writes the suite's page. Returns it.

    Tasks that are complete are not asked again, and one that was killed continues after its last question.
    """
    wanted = cfg.evaluate
    tasks = tasks_of(wanted, Path(cfg.sources.out) / "evaluation", cfg.run.seed)
    folder = RunFolder.of(cfg).eval / f"{file_name(wanted.label)}-{wanted.suite}"
    tokenizer = start(cfg, launcher)
    for task in tasks:  # a set that does not fit is known before hours of the others
        engine.encode_checked(task.questions, tokenizer, with_prompt(cfg, task), wanted.max_new_tokens)
    pool = rollout_pool(cfg, launcher, wanted.model)
    results: dict[str, EvaluationResult] = {}
    total, done = sum(len(task.questions) for task in tasks), 0
    with counter("questions", total) as progress:
        for task in tasks:
            ask = partial(
                engine.evaluate,
                task.questions,
                pool,
                tokenizer,
                with_prompt(cfg, task),
                wanted.label,
                folder / f"{task.name}.json",
                wanted.force_prefix,
                watched(launcher, lambda asked, _, done=done: progress(done + asked, total)),
            )
            results[task.name] = resumed(cfg, launcher, ask)
            done += len(task.questions)
            progress(done, total)
    log.info("\n%s", write_suite(folder, wanted.label, wanted.suite, tasks, results))
    update_cards(cfg)
    return folder / PAGE


def start(cfg: Config, launcher: Launcher) -> PreTrainedTokenizerBase:
    """Starts servers of `evaluate.model`, without waiting for them, and returns its tokenizer."""
    model = cfg.evaluate.model
    check_positions(cfg, check_model_folder(model, "evaluate.model", built=False), "evaluate")
    start_servers(cfg, launcher, model, rewards=False)
    return load_tokenizer(model)


def with_prompt(cfg: Config, task: Task) -> Config:
    """The settings with the task's form of the prompt, if it has one of its own."""
    return dataclasses.replace(cfg, data=dataclasses.replace(cfg.data, prompt=task.prompt or cfg.data.prompt))


def file_name(label: str) -> str:
    return re.sub(r"[^A-Za-z0-9.-]+", "_", label)


def update_cards(cfg: Config) -> None:
    """Brings the cards of the run's releases up to date: its `hf` folder, and the model evaluated if that is one."""
    folder = RunFolder.of(cfg)
    evaluated = Path(cfg.evaluate.model)
    releases = [folder.hf] if release_run(evaluated) != cfg.run.name else dict.fromkeys([folder.hf, evaluated])
    for release in releases:
        if update_card(release, folder.eval):
            log.info("model card: %s", release / "README.md")


def as_hf_folder(cfg: Config) -> Config:
    """The settings with a Hugging Face folder to evaluate: a checkpoint of a run is converted, once."""
    source = Path(cfg.evaluate.model)
    if not source.is_dir():
        check_model_folder(cfg.evaluate.model, "evaluate.model")
    from alphamed_nemo.export.convert import convert_to_hf, is_checkpoint  # takes seconds to import

    if not is_checkpoint(source):
        return cfg
    folder = RunFolder.of(cfg).eval / "models" / source.name
    if not folder.exists():
        export = dataclasses.replace(cfg.export, checkpoint=str(source), out=str(folder))
        convert_to_hf(dataclasses.replace(cfg, export=export))
    return dataclasses.replace(cfg, evaluate=dataclasses.replace(cfg.evaluate, model=str(folder)))


@recipe("evaluate")
def main(cfg: Config) -> None:
    if cfg.evaluate.compare:
        results = [EvaluationResult.read(Path(path)) for path in cfg.evaluate.compare]
        log.info("\n%s", write_comparison(RunFolder.of(cfg).eval, results))
        return
    earlier = [EvaluationResult.read(Path(path)) for path in cfg.evaluate.against]
    if not cfg.evaluate.responses:
        check_serving(cfg, cfg.evaluate.model)
        announce_processor(cfg)
    if cfg.evaluate.suite:
        with Launcher(RunFolder.of(cfg).logs, Waiting()) as launcher:
            log.info("%s", evaluate_suite(as_hf_folder(cfg), launcher))
        return
    with Launcher(RunFolder.of(cfg).logs, Waiting()) as launcher:
        result = evaluate(cfg if cfg.evaluate.responses else as_hf_folder(cfg), launcher)
    for other in earlier:
        log.info("%s", comparison_line(result, other))
    log.info("\n%s", write_tables(RunFolder.of(cfg).eval, result, earlier))


if __name__ == "__main__":
    main()
