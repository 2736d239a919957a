"""Whether this machine has GPUs that torch can use, found out without importing torch, which takes seconds."""

from __future__ import annotations

import ctypes
import importlib.util
import re
from functools import cache
from pathlib import Path

DRIVER = "libcuda.so.1"

# Dense peaks of NVIDIA's data sheets (SXM), by a word of the card's name.
BF16_TFLOPS = {"h100": 989.0, "h200": 989.0}


@cache
def cuda_is_available() -> bool:
    """What torch.cuda.is_available() says: torch is built for CUDA, and the driver has a device."""
    return _built_for_cuda() and device_count() > 0


@cache
def device_count() -> int:
    """GPUs that the CUDA driver shows to this process, CUDA_VISIBLE_DEVICES heeded; 0 without a driver."""
    try:
        driver = ctypes.CDLL(DRIVER)
    except OSError:
        return 0
    count = ctypes.c_int()
    if driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count)):
        return 0
    return count.value


def _built_for_cuda() -> bool:
    """torch/version.py says `cuda: Optional[str] = '13.0'`, or None in a build for CPU hosts."""
    torch = importlib.util.find_spec("torch")
    if torch is None or torch.origin is None:
        return False
    version = Path(torch.origin).with_name("version.py").read_text()
    return re.search(r"^cuda\b[^=]*= *['\"]", version, re.MULTILINE) is not None
