"""Stands in for Transformer Engine's torch extension, which PyPI has as source only and which needs nvcc.

A wheel of the same version is preferred to the source. What it asks for is what the real one asks for, so that the
resolver has the same problem to solve.
"""

import os

from setuptools import setup

version = os.environ["TRANSFORMER_ENGINE_VERSION"]
setup(
    name="transformer_engine_torch",
    version=version,
    py_modules=[],
    install_requires=[  # PKG-INFO of the source of 2.20.2
        "torch>=2.1",
        "einops",
        "onnxscript",
        "onnx",
        "packaging",
        "pydantic",
        "nvdlfw-inspect",
        "nvidia-cudnn-frontend>=1.29.0",
        f"transformer_engine_cu13=={version}",
    ],
)
