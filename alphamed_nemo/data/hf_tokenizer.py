"""A model's tokenizer; the import of transformers, which takes seconds, is left until one is asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def load_tokenizer(folder: str | Path) -> Any:
    """transformers' tokenizer of a Hugging Face folder."""
    import alphamed_nemo.quick_imports  # noqa: F401, I001  # first: it changes what transformers imports
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder)
