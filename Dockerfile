# The GPU environment: Megatron-Core, Transformer Engine, Apex, vLLM and NeMo on the project's pins. docs/slurm.md says
# how to build it, and how to make the file that Slurm jobs start from.
#
# Why this base: CUDA 13.0 is what torch 2.13.0's wheel is built for, and Apex refuses to compile with any other minor
# version; it has compilers, cuDNN, NCCL and Ubuntu 24.04's Python 3.12, and no torch of its own for vLLM to replace.
#
# Its publisher may move the tag. A build that must be repeatable names the base by digest too, as --build-arg BASE=;
# docs/slurm.md has the command that looks it up.
ARG BASE=nvcr.io/nvidia/cuda-dl-base:25.11-cuda13.0-devel-ubuntu24.04
# torch brings the cuDNN that it was built with, and the base has one of its own, which Transformer Engine would load
# first: two versions in one process. All that compiles and runs here takes torch's.
ARG CUDNN=/opt/venv/lib/python3.12/site-packages/nvidia/cudnn

# --- what is compiled: Transformer Engine's torch extension and Apex ---
FROM ${BASE} AS builder
ARG TORCH_VERSION=2.13.0
ARG TRANSFORMER_ENGINE_VERSION=2.20.2
ARG CUDA_PYTHON_VERSION=13.4.4
ARG APEX_COMMIT=6424da3b4faa6c8f062da4a48c424fff3f02d42d
ARG CUDA_ARCHITECTURES="8.0;9.0;10.0"
ARG BUILD_JOBS=8
ARG CUDNN
# NVIDIA's images set PIP_CONSTRAINT to their own versions of what is pinned here.
ENV PIP_CONSTRAINT="" \
    PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    CUDNN_HOME=${CUDNN} \
    CUDNN_PATH=${CUDNN} \
    LD_LIBRARY_PATH=${CUDNN}/lib${LD_LIBRARY_PATH:+:${LD_LIBRARY_PATH}} \
    PATH=/opt/venv/bin:$PATH
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
RUN apt-get update \
    && apt-get install -y --no-install-recommends git python3-dev python3-venv \
    && rm -rf /var/lib/apt/lists/* \
    && python3 -m venv /opt/venv
WORKDIR /build
COPY requirements/cpu.lock cpu.lock
# The versions that the tests run with, but for the one that vLLM's two builds pin differently, and for cuda-bindings:
# vLLM's CUDA build asks for cuda-python, which needs its own version of it. With another one pinned, the resolver falls
# back to a cuda-python so old that it writes CUDA 12's cuda.bindings over that of CUDA 13.
# The lock's own pip comes first: it checks the hashes of what is in the constraints and, with --no-require-hashes, installs
# what is not in them as well: the CUDA builds and all that they ask for.
RUN sed -n '/^pip==/,/[^\]$/p' cpu.lock >pip.txt \
    && pip install --no-deps --require-hashes --requirement pip.txt \
    && sed -e '/^apache-tvm-ffi==/,/[^\]$/d' \
        -e "/^cuda-bindings==/,/[^\\]\$/c cuda-python==${CUDA_PYTHON_VERSION}" cpu.lock >/opt/venv/constraints.txt \
    && pip install --no-require-hashes --constraint /opt/venv/constraints.txt \
        "torch==${TORCH_VERSION}" setuptools wheel ninja packaging pybind11 numpy
# Without its expert-parallel part, which dense models do not use and which would compile NCCL's device code.
RUN NVTE_FRAMEWORK=pytorch NVTE_WITH_NCCL_EP=0 MAX_JOBS=${BUILD_JOBS} \
        pip install --no-build-isolation --no-require-hashes \
        --constraint /opt/venv/constraints.txt "transformer-engine[core_cu13,pytorch]==${TRANSFORMER_ENGINE_VERSION}"
# PyPI's apex is something else. This one adds fused_weight_gradient_mlp_cuda, for Megatron's layers outside of
# Transformer Engine (the output layer), and the fused Adam of where Transformer Engine is not used.
RUN git init --quiet apex \
    && git -C apex fetch --quiet --depth 1 https://github.com/NVIDIA/apex "${APEX_COMMIT}" \
    && git -C apex checkout --quiet FETCH_HEAD \
    && APEX_CPP_EXT=1 APEX_CUDA_EXT=1 APEX_PARALLEL_BUILD=${BUILD_JOBS} TORCH_CUDA_ARCH_LIST="${CUDA_ARCHITECTURES}" \
        pip install --no-build-isolation ./apex \
    && rm -rf apex

# --- what runs. Still the -devel base: vLLM and Triton compile kernels at run time ---
FROM ${BASE} AS runtime
ARG TORCH_VERSION=2.13.0
ARG VLLM_VERSION=0.32.0
ARG TRANSFORMER_ENGINE_VERSION=2.20.2
ARG CUDA_PYTHON_VERSION=13.4.4
ARG VERSION=0.2.0
ARG REVISION=unknown
ARG CUDNN
LABEL org.opencontainers.image.title="AlphaMed-NeMo" \
      org.opencontainers.image.description="GRPO on medical multiple-choice questions with Megatron-Core and vLLM" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.licenses="Apache-2.0"
ENV PIP_CONSTRAINT="" \
    PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PYTHONUNBUFFERED=1 \
    CUDNN_HOME=${CUDNN} \
    CUDNN_PATH=${CUDNN} \
    LD_LIBRARY_PATH=${CUDNN}/lib${LD_LIBRARY_PATH:+:${LD_LIBRARY_PATH}} \
    PATH=/opt/venv/bin:$PATH
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
RUN apt-get update \
    && apt-get install -y --no-install-recommends curl git python3-dev python3-venv \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home --uid 10001 --shell /bin/bash alphamed
COPY --from=builder /opt/venv /opt/venv
WORKDIR /opt/alphamed-nemo
COPY pyproject.toml README.md ./
COPY requirements requirements
# Dependencies before the code, so that a change of the code does not install them again.
RUN mkdir alphamed_nemo \
    && pip install --no-require-hashes --constraint /opt/venv/constraints.txt \
        "torch==${TORCH_VERSION}" "vllm==${VLLM_VERSION}" ".[core]" \
    && pip uninstall --yes alphamed-nemo
COPY . .
RUN pip install --no-deps --editable . && chown -R alphamed:alphamed /opt/alphamed-nemo
USER 10001
# For a container that serves rewards, which is what runs alone; others say --no-healthcheck.
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s --retries=3 \
    CMD ["curl", "--fail", "--silent", "--output", "/dev/null", "http://127.0.0.1:8100/health"]
CMD ["python", "-m", "alphamed_nemo.rewards.server", "--host", "127.0.0.1", "--port", "8100", "--protocol", "boxed"]
# Last: whatever a base or a resolver did, these are the versions that were tested together.
RUN python requirements/assert_cudnn.py && python requirements/assert_versions.py \
        "torch==${TORCH_VERSION}" "vllm==${VLLM_VERSION}" "transformer-engine==${TRANSFORMER_ENGINE_VERSION}" \
        "transformer-engine-cu13==${TRANSFORMER_ENGINE_VERSION}" \
        "transformer-engine-torch==${TRANSFORMER_ENGINE_VERSION}" \
        "cuda-python==${CUDA_PYTHON_VERSION}" "cuda-bindings==${CUDA_PYTHON_VERSION}" \
        megatron-core==0.16.1 nemo-toolkit==3.0.0 transformers==5.19.0 apex
