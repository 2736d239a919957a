"""Results in the form of EleutherAI's lm-evaluation-harness (0.4, `results_*.json`), for tools that read it.

Each task has `exact_match,<protocol>` with its standard error. What the harness has no word for (the majority of
several samples, unanswered responses) is in metrics of its own, which its tables show too.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from math import sqrt
from pathlib import Path
from statistics import stdev

from alphamed_nemo.config.file_writing import whole_file
from alphamed_nemo.evaluation.comparison import score
from alphamed_nemo.evaluation.result import EvaluationResult

NAME = "results_*.json"  # of the file, with its date
VERSION = 1.0  # of our tasks: raised when a prompt's or protocol's meaning changes
METRICS = {"exact_match": True, "majority": True, "unanswered": False}  # name → higher is better


def harness_results(results: Mapping[str, EvaluationResult], date: datetime) -> dict:
    """The content of one `results_*.json`.

    Args:
        results: by task, all of one model.
        date: when the results were written.
    """
    first = next(iter(results.values()))
    asked = first.settings
    sampling = {name: asked.get(name) for name in ("temperature", "top_p", "max_new_tokens", "samples")}
    configs = {
        name: {
            "task": name,
            "output_type": "generate_until",
            "num_fewshot": 0,
            "repeats": result.samples,
            "generation_kwargs": sampling,
            "filter_list": [{"name": result.settings["protocol"]}],
            "metadata": {"version": VERSION, "questions": result.settings["questions"]},
            "prompt": result.settings.get("prompt"),
        }
        for name, result in results.items()
    }
    return {
        "results": {name: _metrics(name, result) for name, result in results.items()},
        "group_subtasks": {name: [] for name in results},
        "configs": configs,
        "versions": dict.fromkeys(results, VERSION),
        "n-shot": dict.fromkeys(results, 0),
        "higher_is_better": {name: dict(METRICS) for name in results},
        "n-samples": {name: dict.fromkeys(("original", "effective"), len(r.grades)) for name, r in results.items()},
        "config": {
            "model": "vllm",
            "model_args": {"pretrained": asked["model"]},
            "model_sha": asked.get("weights"),
            "batch_size": None,
            "batch_sizes": [],
            "device": None,
            "use_cache": None,
            "limit": None,
            "bootstrap_iters": 0,
            "gen_kwargs": sampling,
            **dict.fromkeys(("random_seed", "numpy_seed", "torch_seed", "fewshot_seed"), asked.get("seed")),
        },
        "git_hash": None,
        "date": date.timestamp(),
        "task_hashes": {name: result.settings["questions"] for name, result in results.items()},
        "model_source": "vllm",
        "model_name": asked["model"],
        "model_name_sanitized": sanitized(asked["model"]),
        "system_instruction": None,
        "system_instruction_sha": None,
        "fewshot_as_multiturn": None,
        "chat_template": asked.get("chat_template"),
        "chat_template_sha": None,
    }


def _metrics(name: str, result: EvaluationResult) -> dict:
    summary, protocol = result.summary, result.settings["protocol"]
    values = {"exact_match": summary.accuracy, "majority": summary.majority, "unanswered": summary.unanswered}
    named = {f"{metric},{protocol}": value for metric, value in values.items()}
    spread = {f"exact_match_stderr,{protocol}": standard_error(result)}
    return {"name": name, "alias": name, "sample_len": summary.n, **named, **spread}


def standard_error(result: EvaluationResult) -> float | str:
    """Of the mean over questions, as the harness computes it: the sample's deviation over √n; "N/A" for one."""
    values = [score(grade) for grade in result.grades]
    return stdev(values) / sqrt(len(values)) if len(values) > 1 else "N/A"


def sanitized(model: str) -> str:
    """A model's name as the harness makes a folder's of it."""
    return re.sub(r'["<>:/|\\?*\[\]]+', "__", model)


def write_harness(folder: Path, results: Mapping[str, EvaluationResult]) -> Path:
    """Writes `<folder>/results_<date>.json`, in place of an earlier one."""
    date = datetime.now(UTC)
    content = harness_results(results, date)
    path = folder / f"results_{date.replace(tzinfo=None).isoformat().replace(':', '-')}.json"
    with whole_file(path) as part:
        part.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    for earlier in folder.glob(NAME):
        if earlier != path:
            earlier.unlink()
    return path
