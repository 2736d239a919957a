"""What the processor of this machine can do, and how many of its cores this process may use. No torch, no vLLM.

Which instructions there are decides whether bfloat16 is faster than float32 (by AVX-512 BF16 or AMX) or far slower
(without them torch multiplies bfloat16 matrices number by number), and which of its compiled kernels vLLM loads.

Two variables limit what torch (ATEN_CPU_CAPABILITY) and oneDNN (ONEDNN_MAX_CPU_ISA) use. Here the lower of them counts
for everything, so that with ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2 a newer machine behaves as an older one.
"""

from __future__ import annotations

import ctypes
import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

CPUINFO = Path("/proc/cpuinfo")

# Each level with the flags of /proc/cpuinfo that make it; a level counts only where those before it are there.
X86 = {
    "AVX2": {"avx2", "fma"},
    "AVX-512": {"avx512f", "avx512bw", "avx512dq", "avx512vl"},
    "AVX-512 BF16": {"avx512_bf16"},
    "AMX": {"amx_tile", "amx_bf16"},
}
ARM = {"NEON": {"asimd"}, "NEON BF16": {"bf16"}}
BFLOAT16 = ("AVX-512 BF16", "NEON BF16")  # the levels from which on bfloat16 matrices are multiplied as such

# A step of a Llama of 7 million parameters. With AVX-512 oneDNN widens bfloat16 to float32; without it torch multiplies
# number by number.
SLOWER_AVX512, SLOWER = 3, 8

# How many levels of X86 each value of a variable leaves. Others, "default" of oneDNN among them, limit nothing.
LIMITS = {
    "ATEN_CPU_CAPABILITY": {"DEFAULT": 0, "AVX2": 1},
    "ONEDNN_MAX_CPU_ISA": {
        **dict.fromkeys(("SSE41", "AVX"), 0),
        **dict.fromkeys(("AVX2", "AVX2_VNNI", "AVX2_VNNI_2"), 1),
        **dict.fromkeys(("AVX512_CORE", "AVX512_CORE_VNNI"), 2),
        **dict.fromkeys(("AVX512_CORE_BF16", "AVX512_CORE_FP16", "AVX10_1_512"), 3),
    },
}


@dataclass(frozen=True)
class Processor:
    """What programs may use of a processor.

    Attributes:
        model: its name; several, where the machine has several.
        cores: that this process may run on.
        instructions: levels of X86 or ARM, lowest first; empty where nothing is known.
        limits: variables that take some of them away, as NAME=value.
    """

    model: str
    cores: int
    instructions: tuple[str, ...]
    limits: tuple[str, ...] = ()

    @property
    def has_bfloat16(self) -> bool:
        """Whether it multiplies bfloat16 matrices by instructions made for that."""
        return any(level in BFLOAT16 for level in self.instructions)

    @property
    def fastest_dtype(self) -> Literal["float32", "bfloat16"]:
        """In which models train fastest on this processor alone."""
        return "bfloat16" if self.has_bfloat16 else "float32"

    @property
    def bfloat16_slower(self) -> int:
        """How many times as long a training step takes in bfloat16 as in float32, measured; 0 where it is faster."""
        if self.has_bfloat16:
            return 0
        return SLOWER_AVX512 if "AVX-512" in self.instructions else SLOWER

    def __str__(self) -> str:
        limited = f", limited by {' '.join(self.limits)}" if self.limits else ""
        instructions = ", ".join(self.instructions) or "no vector instructions that are known"
        return f"{self.model}, {self.cores} core{'s' if self.cores > 1 else ''}, {instructions}{limited}"


@cache
def this_processor() -> Processor:
    """That of this machine, read once in a process."""
    cores = len(os.sched_getaffinity(0))
    return read_processor(CPUINFO.read_text() if CPUINFO.exists() else "", os.environ, cores)


def read_processor(cpuinfo: str, environment: Mapping[str, str], cores: int) -> Processor:
    """A processor by the text of /proc/cpuinfo and the variables that limit it."""
    lines = [(name.strip(), value.strip()) for name, _, value in (line.partition(":") for line in cpuinfo.splitlines())]
    models = sorted({value for name, value in lines if name == "model name"})
    flags = [set(value.split()) for name, value in lines if name in ("flags", "Features")]
    common = set.intersection(*flags) if flags else set()
    instructions: list[str] = []
    for levels in (X86, ARM):
        for level, needed in levels.items():
            if not needed <= common:
                break
            instructions.append(level)
    limits = []
    for variable, values in LIMITS.items():
        found = environment.get(variable, "")
        left = values.get(found.upper(), len(instructions))
        if instructions[:1] == ["AVX2"] and left < len(instructions):
            instructions = instructions[:left]
            limits.append(f"{variable}={found}")
    model = ", ".join(models) or platform.processor() or "unknown processor"
    return Processor(model, cores, tuple(instructions), tuple(limits))


def give_back_freed_memory() -> None:
    """Has glibc return what is free to the system, which it does not do by itself for blocks between others in use."""
    libc = ctypes.CDLL(None)
    if hasattr(libc, "malloc_trim"):
        libc.malloc_trim(0)
