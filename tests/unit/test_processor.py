"""What is read from /proc/cpuinfo, and what the limits of torch and oneDNN leave of it."""

from __future__ import annotations

import subprocess
import sys

import pytest

from alphamed_nemo.processor import Processor, read_processor, this_processor

AVX2 = "fpu sse4_1 avx fma avx2"
AVX512 = f"{AVX2} avx512f avx512dq avx512bw avx512vl avx512_vnni"
BF16 = f"{AVX512} avx512_bf16"
AMX = f"{BF16} amx_bf16 amx_tile amx_int8"
LEVELS = ("AVX2", "AVX-512", "AVX-512 BF16", "AMX")


def cpuinfo(*flags: str) -> str:
    """One core for each list of flags."""
    cores = (f"processor\t: {n}\nmodel name\t: Some CPU\nflags\t\t: {each}\n" for n, each in enumerate(flags))
    return "\n".join(cores)


@pytest.mark.parametrize(
    ("flags", "levels"), [("fpu sse4_1 avx", 0), (AVX2, 1), (AVX512, 2), (BF16, 3), (AMX, 4), ("fpu amx_tile", 0)]
)
def test_each_kind_of_processor_is_told_apart(flags: str, levels: int) -> None:
    found = read_processor(cpuinfo(flags, flags), {}, 2)
    assert found == Processor("Some CPU", 2, LEVELS[:levels])
    assert found.has_bfloat16 == (levels >= 3)


def test_only_what_every_core_can_do_counts() -> None:
    assert read_processor(cpuinfo(AMX, AVX2), {}, 2).instructions == LEVELS[:1]


def test_other_processors() -> None:
    graviton = "processor\t: 0\nFeatures\t: fp asimd sve bf16 i8mm\n"
    assert read_processor(graviton, {"ATEN_CPU_CAPABILITY": "default"}, 4).has_bfloat16
    assert not read_processor("Features\t: fp asimd\n", {}, 4).has_bfloat16
    unknown = read_processor("", {}, 1)
    assert unknown.instructions == () and not unknown.has_bfloat16
    assert "1 core," in str(unknown)


@pytest.mark.parametrize(
    ("variables", "levels"),
    [
        ({"ATEN_CPU_CAPABILITY": "avx2"}, 1),
        ({"ATEN_CPU_CAPABILITY": "avx512"}, 4),
        ({"ATEN_CPU_CAPABILITY": "default"}, 0),
        ({"ONEDNN_MAX_CPU_ISA": "AVX2"}, 1),
        ({"ONEDNN_MAX_CPU_ISA": "avx512_core_vnni"}, 2),
        ({"ONEDNN_MAX_CPU_ISA": "AVX512_CORE_BF16"}, 3),
        ({"ONEDNN_MAX_CPU_ISA": "DEFAULT"}, 4),
        ({"ATEN_CPU_CAPABILITY": "avx512", "ONEDNN_MAX_CPU_ISA": "AVX512_CORE"}, 2),
        ({"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX512_CORE"}, 1),
        ({"ATEN_CPU_CAPABILITY": "nonsense"}, 4),
    ],
)
def test_the_lowest_limit_counts(variables: dict[str, str], levels: int) -> None:
    found = read_processor(cpuinfo(AMX), variables, 2)
    assert found.instructions == LEVELS[:levels]
    assert bool(found.limits) == (levels < 4)


def test_a_limit_above_what_there_is_changes_nothing() -> None:
    found = read_processor(cpuinfo(AVX2), {"ONEDNN_MAX_CPU_ISA": "AVX512_CORE", "ATEN_CPU_CAPABILITY": "avx2"}, 2)
    assert found.instructions == LEVELS[:1] and not found.limits


def test_it_says_what_it_found() -> None:
    found = read_processor(cpuinfo(AMX), {"ATEN_CPU_CAPABILITY": "avx2"}, 2)
    assert str(found) == "Some CPU, 2 cores, AVX2, limited by ATEN_CPU_CAPABILITY=avx2"


def test_this_one_is_read_without_torch_and_vllm() -> None:
    code = "import sys, alphamed_nemo.processor as here; print(here.this_processor());"
    code += "assert not {'torch', 'vllm'} & {*sys.modules}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str(this_processor())
