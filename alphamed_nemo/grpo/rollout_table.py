"""The columns of rollouts/step_<n>.parquet, and reading them. Imports neither torch nor Megatron."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet

SCHEMA = pyarrow.schema(
    [
        ("question_id", pyarrow.string()),
        ("group", pyarrow.int32()),  # in the order of the batch
        ("trained", pyarrow.bool_()),  # false: replaced by dynamic sampling, or more than the batch needed
        ("prompt_ids", pyarrow.list_(pyarrow.int32())),  # as sent
        ("response_ids", pyarrow.list_(pyarrow.int32())),
        ("logprobs", pyarrow.list_(pyarrow.float32())),  # the rollout engine's, which are float32
        ("text", pyarrow.string()),
        ("truncated", pyarrow.bool_()),
        ("weight_version", pyarrow.int32()),
        ("answer", pyarrow.string()),  # that the response states; null: none
        ("reason", pyarrow.string()),
        ("reward", pyarrow.float64()),
        ("parts", pyarrow.string()),  # JSON, of reward.functions
        ("shaped_reward", pyarrow.float64()),  # with the penalty of overlong responses
        ("advantage", pyarrow.float64()),
    ]
)
BATCH = b"batch"  # key of the metadata


def read_table(path: Path, columns: Sequence[str] | None = None) -> tuple[pyarrow.Table, dict[str, Any]]:
    """The rows of one step's file, and what it says of its batch.

    Args:
        path: the file.
        columns: those to read; None: all. Token ids and log-probs are most of a file.

    Raises:
        ValueError: the file is missing, or none of these; names it.
    """
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            schema = file.schema_arrow
            rest = json.loads((schema.metadata or {})[BATCH])
            table = file.read(columns) if schema.equals(SCHEMA) else None
    except (OSError, KeyError, ValueError, pyarrow.ArrowException) as error:
        raise ValueError(f"{path}: not the rollouts of a step ({type(error).__name__}: {error})") from error
    if table is None:
        raise ValueError(f"{path}: not the rollouts of a step: other columns than this version writes")
    return table, rest


def count_rows(path: Path) -> int:
    """Responses in one step's file, without reading them.

    Raises:
        ValueError: the file is missing, or no parquet; names it.
    """
    try:
        return pyarrow.parquet.read_metadata(path).num_rows
    except (OSError, pyarrow.ArrowException) as error:
        raise ValueError(f"{path}: not the rollouts of a step ({type(error).__name__}: {error})") from error
