"""What a tokenizer and a rank's program import, each in a process of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

BASE = Path(__file__).resolve().parents[2] / "alphamed_nemo" / "assets" / "tiny_base"
TOKENIZER = f"from alphamed_nemo.data.hf_tokenizer import load_tokenizer; load_tokenizer({str(BASE)!r})"
RANK = "import alphamed_nemo.quick_imports, alphamed_nemo.grpo.worker"


@pytest.mark.parametrize("program", [TOKENIZER, RANK], ids=["tokenizer", "rank"])
def test_scikit_learn_is_left_out_and_can_be_imported_afterwards(program: str) -> None:
    program += "; import gc, sys; print('sklearn' in sys.modules, gc.isenabled())"
    program += "; import sklearn; print(sklearn.__name__)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-2:] == ["False True", "sklearn"]
