"""Ends an image build unless every way to cuDNN leads to the copy in CUDNN_HOME, which is the one that torch brings.

python requirements/assert_cudnn.py

Torch finds its copy by a path of its own. Transformer Engine looks in CUDNN_HOME, CUDNN_PATH and CUDA's folders, then
asks the loader by name, as cuDNN's own parts and other libraries do; and the base image has another version.
"""

from __future__ import annotations

import ctypes
import os
import re
import sys
from pathlib import Path

NAME = "libcudnn.so.9"


def problem() -> str:
    """What is wrong; empty: nothing."""
    home = os.environ.get("CUDNN_HOME", "")
    expected = Path(home, "lib", NAME)
    if not home or not expected.is_file():
        return f"CUDNN_HOME: found {home!r}, expected a folder with lib/{NAME}"
    if os.environ.get("CUDNN_PATH") != home:
        return f"CUDNN_PATH: found {os.environ.get('CUDNN_PATH', '')!r}, expected CUDNN_HOME's {home!r}"
    ctypes.CDLL(NAME)
    loaded = sorted(set(re.findall(r"(/\S*/libcudnn\.so\S*)$", Path("/proc/self/maps").read_text(), re.MULTILINE)))
    if loaded != [str(expected.resolve())]:
        return f"{NAME}: loaded from {', '.join(loaded)}, expected {expected}: put its folder first in LD_LIBRARY_PATH"
    return ""


if __name__ == "__main__":
    sys.exit(problem() or 0)
