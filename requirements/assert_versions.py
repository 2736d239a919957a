"""Ends an image build unless the named distributions are there, in their versions, and can be imported.

python requirements/assert_versions.py torch==2.13.0 vllm==0.32.0 apex
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import sys

# Where a module is not called like its distribution. Found, not imported: some import only where there is a GPU.
MODULES = {
    "apex": "fused_weight_gradient_mlp_cuda",
    "cuda-bindings": "cuda.bindings",
    "cuda-python": "cuda.bindings",
    "megatron-core": "megatron.core",
    "nemo-toolkit": "nemo",
    "transformer-engine-cu13": "transformer_engine",
    "transformer-engine-torch": "transformer_engine",
}


def problem(requirement: str) -> str:
    """What is wrong with one of them; empty: nothing."""
    name, _, wanted = requirement.partition("==")
    try:
        found = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return f"{name}: not installed, expected {wanted or 'any version'}"
    if wanted and found.split("+")[0] != wanted:
        return f"{name}: found {found}, expected {wanted}"
    module = MODULES.get(name, name.replace("-", "_"))
    if importlib.util.find_spec(module) is None:
        return f"{name} {found}: there is no module {module}"
    return ""


if __name__ == "__main__":
    problems = list(filter(None, map(problem, sys.argv[1:])))
    sys.exit("\n".join(problems) or 0)
