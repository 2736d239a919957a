"""study.json: what a study has found, for programs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from alphamed_nemo.config.file_writing import whole_file
from alphamed_nemo.config.run_folder import RunFolder
from alphamed_nemo.evaluation.result import EvaluationResult
from alphamed_nemo.study.outcome import Comparison, StudyOutcome, VariantOutcome


def write_record(outcome: StudyOutcome) -> Path:
    """Writes the study's study.json and returns its path."""
    path = RunFolder.of(outcome.cfg).root / "study.json"
    with whole_file(path) as part:
        part.write_bytes(msgspec.json.format(msgspec.json.encode(record(outcome)), indent=1) + b"\n")
    return path


def record(outcome: StudyOutcome) -> dict[str, Any]:
    """The file's content; shares are 0..1, intervals 95%."""
    grpo = outcome.cfg.grpo
    return {
        "study": outcome.cfg.study.name,
        "runs": {"finished": outcome.runs, "planned": outcome.planned},
        "of_each_run": {
            "steps": grpo.steps,
            "questions_per_step": grpo.questions_per_step,
            "samples_per_question": grpo.samples_per_question,
        },
        "base": [_evaluation(result) for result in (outcome.base, *outcome.others) if result is not None],
        "variants": [_variant(outcome, variant) for variant in outcome.variants],
        "comparisons": [_comparison(comparison) for comparison in outcome.comparisons],
    }


def _evaluation(result: EvaluationResult) -> dict[str, Any]:
    summary = result.summary
    return {
        "label": result.label,
        "accuracy": summary.accuracy,
        "interval": summary.interval,
        "questions": summary.n,
        "guessing": summary.guessing,
    }


def _variant(outcome: StudyOutcome, variant: VariantOutcome) -> dict[str, Any]:
    root = RunFolder.of(outcome.cfg).root
    return {
        "name": variant.variant.name,
        "questions": variant.variant.questions,
        "settings": {f"label.{name}": value for name, value in variant.variant.label.items()},
        **(_means(outcome, variant) if variant.runs else {}),
        "runs": [
            {
                "seed": run.seed,
                "folder": str(run.folder.relative_to(root)),
                "accuracy": run.accuracy,
                "interval": run.result.summary.interval,
                "by_dataset": {name: part.accuracy for name, part in run.result.by_dataset.items()},
                "mean_length": run.result.mean_length,
                "levels": {str(level): count for level, count in run.levels.items()},
            }
            for run in variant.runs
        ],
    }


def _means(outcome: StudyOutcome, variant: VariantOutcome) -> dict[str, Any]:
    return {
        "mean": variant.mean,
        "interval": variant.interval,
        "interval_over": "seeds" if len(variant.runs) > 1 else "questions",
        "passes": outcome.passes(variant),
    }


def _comparison(comparison: Comparison) -> dict[str, Any]:
    test = "Student's, paired by seed" if comparison.seeds > 1 else "McNemar's, over questions"
    return {**vars(comparison), "test": test}
