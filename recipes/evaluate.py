"""Asks a model the held-out questions through vLLM, grades the answers, and prints accuracy with 95% intervals.

python recipes/evaluate.py run.name=my_run  # the run's converted model
python recipes/evaluate.py run.name=my_run model.path=<base> evaluate.model=runs/my_run/checkpoints/step_20
python recipes/evaluate.py evaluate.model=<folder> evaluate.questions=<file> evaluate.protocol=lenient
python recipes/evaluate.py evaluate.model=<folder> 'evaluate.against=[<run>/eval/base.json]'  # and a paired test
python recipes/evaluate.py evaluate.responses=<file> evaluate.questions=<file>  # saved responses, no model

Results go to <run>/eval/<label>.json with every response's grade, and tables of all the run's results, beside the
published numbers, to <run>/eval/tables.md. A result of the weights in <run>/hf, or of their base model, goes to that
folder's model card, too. A killed evaluation resumes where it stopped.
"""

from __future__ import annotations

import dataclasses
import logging
import re
from pathlib import Path

from alphamed_nemo.cli.here import check_cores, check_servers
from alphamed_nemo.cli.preflight import check_model_folder, check_questions
from alphamed_nemo.cli.progress import counter
from alphamed_nemo.cli.recipe import recipe
from alphamed_nemo.config import Config
from alphamed_nemo.config.run_folder import RunFolder
from alphamed_nemo.evaluation import engine
from alphamed_nemo.evaluation.result import EvaluationResult
from alphamed_nemo.evaluation.tables import comparison_line, write_tables
from alphamed_nemo.export.card_results import update_card
from alphamed_nemo.launch.components import announce_processor
from alphamed_nemo.launch.local import Launcher
from alphamed_nemo.launch.servers import resumed, rollout_client, start_servers
from alphamed_nemo.provenance import release_run

log = logging.getLogger(__name__)


def evaluate(cfg: Config, launcher: Launcher) -> EvaluationResult:
    """Evaluates `evaluate.model`, which must be what a running rollout server serves, if there is one."""
    wanted = cfg.evaluate
    questions = check_questions(wanted.questions, "evaluate.questions")
    out = RunFolder.of(cfg).eval / f"{re.sub(r'[^A-Za-z0-9.-]+', '_', wanted.label)}.json"
    if wanted.responses:
        result = engine.score_saved(questions, wanted.responses, wanted.protocol, wanted.label, out)
    else:
        check_model_folder(wanted.model, "evaluate.model", built=False)
        start_servers(cfg, launcher, wanted.model, rewards=False)
        from transformers import AutoTokenizer  # takes seconds, in which the server comes up

        tokenizer = AutoTokenizer.from_pretrained(wanted.model)
        client = rollout_client(cfg, launcher, wanted.model)
        with counter("questions", len(questions)) as progress:
            arguments = (questions, client, tokenizer, cfg, wanted.label, out, wanted.force_prefix, progress)
            result = resumed(launcher, lambda: engine.evaluate(*arguments))
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
    from alphamed_nemo.export.convert import convert_to_hf, is_checkpoint  # takes seconds to import

    source = Path(cfg.evaluate.model)
    if not is_checkpoint(source):
        return cfg
    folder = RunFolder.of(cfg).eval / "models" / source.name
    if not folder.exists():
        export = dataclasses.replace(cfg.export, checkpoint=str(source), out=str(folder))
        convert_to_hf(dataclasses.replace(cfg, export=export))
    return dataclasses.replace(cfg, evaluate=dataclasses.replace(cfg.evaluate, model=str(folder)))


@recipe("evaluate")
def main(cfg: Config) -> None:
    earlier = [EvaluationResult.read(Path(path)) for path in cfg.evaluate.against]
    if not cfg.evaluate.responses:
        check_servers(cfg, rewards=False)
        check_cores(cfg, trains=False)
        announce_processor(cfg)
    with Launcher(RunFolder.of(cfg).logs) as launcher:
        result = evaluate(cfg if cfg.evaluate.responses else as_hf_folder(cfg), launcher)
    for other in earlier:
        log.info("%s", comparison_line(result, other))
    log.info("\n%s", write_tables(RunFolder.of(cfg).eval, result, earlier))


if __name__ == "__main__":
    main()
