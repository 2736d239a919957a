"""What a tokenizer and then a rank's program import, in a process of their own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

BASE = Path(__file__).resolve().parents[2] / "alphamed_nemo" / "assets" / "tiny_base"
PROGRAM = f"""
import gc, sys
from alphamed_nemo.data.hf_tokenizer import load_tokenizer

load_tokenizer({str(BASE)!r})
import alphamed_nemo.quick_imports, alphamed_nemo.grpo.worker

print("sklearn" in sys.modules, gc.isenabled())
import sklearn

print(sklearn.__name__)
"""


def test_scikit_learn_is_left_out_and_can_be_imported_afterwards() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-2:] == ["False True", "sklearn"]
