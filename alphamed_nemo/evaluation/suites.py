"""Suites: which prepared sets are asked in one go, and in which ways."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from alphamed_nemo.config.schema import EvaluateConfig
from alphamed_nemo.data.io import read_questions
from alphamed_nemo.data.question import Question
from alphamed_nemo.evaluation.robustness import CHANGES, changed


@dataclass(frozen=True)
class SuiteSets:
    """A suite: every set as it is, after each change of robustness.py, and in each further form of the prompt."""

    sets: tuple[str, ...]
    sources: str  # what conf/sources/ has to be for prepare_data
    changes: tuple[str, ...] = ()
    prompts: tuple[str, ...] = ()


SUITES = {
    "paper": SuiteSets(("medqa", "medmcqa", "pubmedqa", "mmlu_pro", "gpqa", "medxpertqa"), "benchmarks"),
    "medmarks": SuiteSets(
        (
            *("medqa", "medmcqa", "pubmedqa_test", "mmlu_pro_health", "m_arc", "careqa", "headqa"),
            *("medbullets_4", "medbullets_5", "medxpertqa_reasoning", "medxpertqa_understanding"),
            *("supergpqa_medicine", "medconceptsqa_easy", "medconceptsqa_medium", "medconceptsqa_hard"),
            *("metamedqa", "pubhealthbench", "medhalt_nota", "medcalc"),
        ),
        "[medmarks,pubmedqa_test]",
    ),
    "robust": SuiteSets(
        ("medqa", "medmcqa", "medxpertqa"),
        "benchmarks",
        ("shuffled", "relabelled", "none_of_others"),
        ("alphamed_bracketed", "alphamed_headed"),
    ),
}


@dataclass(frozen=True)
class Task:
    """One evaluation of a suite.

    Attributes:
        dataset: the set.
        variant: a change of robustness.py or a form of the prompt; empty: the set as it is.
        prompt: the form of the prompt; empty: `data.prompt`.
        plain: the set's questions as they are, in their order.
        questions: what is asked.
    """

    dataset: str
    variant: str
    prompt: str
    plain: list[Question]
    questions: list[Question]

    @property
    def name(self) -> str:
        return f"{self.dataset}-{self.variant}" if self.variant else self.dataset


def tasks_of(evaluate: EvaluateConfig, folder: Path, seed: int) -> list[Task]:
    """All evaluations of `evaluate.suite`, in its order.

    Args:
        evaluate: `suite`, and `sets` where not all of them are wanted.
        folder: of the prepared evaluation sets, `<sources.out>/evaluation`.
        seed: of the changes.

    Raises:
        ValueError: a set has not been prepared; says how.
    """
    suite = SUITES[evaluate.suite]
    wanted = list(evaluate.sets or suite.sets)
    files = {name: _file(folder, name) for name in wanted}
    missing = [name for name, file in files.items() if file is None]
    if missing:
        raise ValueError(
            f"evaluate.suite={evaluate.suite}: {folder} has no {', '.join(missing)}; prepare them with ./run "
            f"prepare_data data.source=sources sources={suite.sources}, or name those that are there in evaluate.sets"
        )
    tasks = []
    for name, file in files.items():
        assert file is not None
        plain = read_questions(file)
        if not plain:
            raise ValueError(f"evaluate.sets: {file} holds no questions")
        tasks.append(Task(name, "", "", plain, plain))
        for change in suite.changes:
            assert change in CHANGES
            tasks.append(Task(name, change, "", plain, [changed(question, change, seed) for question in plain]))
        tasks += [Task(name, prompt, prompt, plain, plain) for prompt in suite.prompts]
    return tasks


def _file(folder: Path, name: str) -> Path | None:
    found: Sequence[Path] = [folder / f"{name}{suffix}" for suffix in (".parquet", ".jsonl")]
    return next((path for path in found if path.is_file()), None)
