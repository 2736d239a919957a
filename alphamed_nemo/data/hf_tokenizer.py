"""A model's tokenizer; the import of transformers, which takes seconds, is left until one is asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def load_tokenizer(folder: str | Path) -> Any:
    """transformers' tokenizer of a Hugging Face folder."""
    from alphamed_nemo.quick_imports import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder)
