"""Grades every response of a run again, by another rule or other reward functions, without a model.

    ./run rescore run.name=my_run reward.protocol=lenient
    ./run rescore run.name=my_run 'reward.functions=[correct,examples/format_reward.py:format_reward]' \
        'reward.weights=[1.0,0.2]'

Prints both mean rewards by step, and writes the responses that are graded otherwise to <run>/rescored.jsonl.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from alphamed_nemo.cli.progress import counter
from alphamed_nemo.cli.recipe import recipe
from alphamed_nemo.config import Config
from alphamed_nemo.config.files import load_config
from alphamed_nemo.config.run_folder import RunFolder
from alphamed_nemo.data.hf_tokenizer import load_tokenizer
from alphamed_nemo.data.io import read_questions
from alphamed_nemo.rewards.functions import check_functions

if TYPE_CHECKING:
    from alphamed_nemo.grpo.rescoring import Rescored

ROWS = 20  # steps that the table shows, at most

log = logging.getLogger(__name__)


def rescore_run(cfg: Config, console: Console) -> Path:
    """Grades by `reward` of `cfg`; all else is the run's own."""
    folder = RunFolder.of(cfg)
    if not folder.config.is_file():
        raise ValueError(f"run.name: no run in {folder.root}; name one that has trained, or set run.dir")
    check_functions(cfg.reward)
    run = load_config(folder.config)
    questions = {question.id: question for question in read_questions(run.grpo.questions)}
    from alphamed_nemo.grpo.rescoring import in_all, rescore

    tokenizer = load_tokenizer(run.model.path)
    out = folder.root / "rescored.jsonl"
    with counter("steps", 1, console) as progress:
        found = rescore(folder, cfg.reward, questions, tokenizer.decode, out, progress)
    console.print(table(found, in_all(found), cfg.reward.protocol))
    return out


def table(found: dict[int, Rescored], whole: Rescored, protocol: str) -> Table:
    """Both mean rewards by step, evenly spaced steps where there are many, and over all of them."""
    steps = sorted(found)
    shown = steps[:: -(-len(steps) // ROWS)]
    shown += [steps[-1]] if shown[-1] != steps[-1] else []
    rows = [(f"{step}", found[step]) for step in shown] + [("all", whole)]
    result = Table(title=f"Graded again (reward.protocol={protocol})", title_justify="left")
    for name in ("step", "responses", "reward before", "reward now", "graded otherwise"):
        result.add_column(name, justify="right")
    for name, each in rows:
        means = (f"{total / each.responses:.3f}" for total in (each.before, each.after))
        result.add_row(name, f"{each.responses:,}", *means, f"{each.changed:,}")
    return result


@recipe("rescore", on_gpus=None)
def main(cfg: Config) -> None:
    out = rescore_run(cfg, Console(highlight=False))
    log.info("responses that are graded otherwise: %s", out)


if __name__ == "__main__":
    main()
