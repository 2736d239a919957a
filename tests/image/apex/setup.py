"""Stands in for NVIDIA's Apex: the module that the project looks for, and nothing in it."""

import os

from setuptools import setup

for variable in ("APEX_CPP_EXT", "APEX_CUDA_EXT", "TORCH_CUDA_ARCH_LIST"):
    assert os.environ.get(variable), f"{variable} is not set: the real one would be built without what Megatron uses"
setup(name="apex", version="0.1", py_modules=["fused_weight_gradient_mlp_cuda"])
