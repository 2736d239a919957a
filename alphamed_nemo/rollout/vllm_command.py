"""How to start the vLLM server: its command line and environment.

What each choice bought on two CPU cores (a 1M-parameter Llama; the server came up in 85 s and answered first after
another 9 s without them, in 12 s and 0.1 s with them) is in docs/rollout.md.
"""

from __future__ import annotations

import importlib.util
import json
import os
import secrets
import sys
from collections.abc import Sequence
from pathlib import Path

from alphamed_nemo import devices
from alphamed_nemo.config import Config, RolloutConfig
from alphamed_nemo.config.choices import Placement, Transfer, names
from alphamed_nemo.config.hosts import is_every_interface
from alphamed_nemo.rollout.inside_vllm.hanging import LIMIT
from alphamed_nemo.rollout.inside_vllm.room import ROOM

PLUGIN = "alphamed_shm_transfer"  # entry point in pyproject.toml
# The weight-transfer engines that the plugin registers, by carrier.
BACKENDS = {"shm": "alphamed_shm", "gloo": "alphamed_gloo", "nccl": "alphamed_nccl", "ipc": "alphamed_ipc"}
CPU_NORM = "alphamed_cpu"  # the implementation of RMSNorm that the plugin registers
MODEL_NAME = "policy"  # what the server calls the model, whatever folder it came from
TRANSFERS = names(Transfer)
ON_CPU = ("shm", "gloo")
CPU_HEAD_SIZES = (32, 64, 80, 96, 112, 128, 160, 192, 224, 256, 512)  # vllm/v1/attention/backends/cpu_attn.py, 0.32

# Options of the command that settings decide: given once more in rollout.extra_args, vLLM would take the last.
DECIDED_BY = {
    "--model": "model.path",
    "--max-model-len": "model.max_length",
    "--seed": "run.seed",
    "--host": "rollout.host",
    "--port": "rollout.port",
    "--uds": "rollout.host and rollout.port",
    "--api-key": "rollout.api_key",
    "--dtype": "rollout.dtype",
    "--hf-overrides": "model.head_dtype",
    "--quantization": "rollout.quantization",
    "--tensor-parallel-size": "rollout.tensor",
    "--data-parallel-size": "rollout.engines",
    "--api-server-count": "rollout.api_servers",
    "--max-num-seqs": "rollout.max_num_seqs",
    "--kv-cache-memory-bytes": "rollout.memory_gb",
    "--gpu-memory-utilization": "rollout.gpu_memory_utilization",
    "--weight-transfer-config": "rollout.transfer",
}
FIXED = (
    "--served-model-name",
    "--logprobs-mode",
    "--generation-config",
    "--middleware",
)  # client, loss and guard rely on them


def check_extra_args(arguments: Sequence[str]) -> None:
    """Refuses arguments for vLLM that would undo what is decided elsewhere.

    An argument that vLLM does not know is refused by vLLM itself when the server starts: only vLLM knows its options,
    and importing it takes longer than everything that is checked before.

    Raises:
        ValueError: names the argument, and the setting that decides it.
    """
    if arguments and not arguments[0].startswith("-"):
        raise ValueError(f"rollout.extra_args: found {arguments[0]!r}, expected options of vLLM such as --block-size")
    for argument in arguments:
        name = argument.split("=")[0].split(".")[0].replace("_", "-")  # --option.key=value sets a part of an option
        for option in (*DECIDED_BY, *FIXED) if len(name) > len("--x") else ():
            if not option.startswith(name):  # vLLM takes abbreviations
                continue
            if option in FIXED:
                raise ValueError(f"rollout.extra_args: found {name}, on which client and loss rely; leave it out")
            raise ValueError(f"rollout.extra_args: found {name}; set {DECIDED_BY[option]} instead")


def resolve_transfer(transfer: str, cuda: bool, placement: Placement) -> str:
    """Name of the weight-transfer engine: shm on CPU hosts unless gloo (between hosts) is asked for; with CUDA ipc for
    servers on the trainer's GPUs, else nccl.

    Raises:
        ValueError: the setting is unknown or cannot work on this kind of host.
    """
    if transfer not in TRANSFERS:
        raise ValueError(f"rollout.transfer: found {transfer!r}, expected one of {', '.join(TRANSFERS)}")
    if transfer == "auto":
        return ("ipc" if placement == "colocated" else "nccl") if cuda else "shm"
    if transfer in ON_CPU and cuda:
        raise ValueError(
            f"rollout.transfer: {transfer} is for CPU hosts; with CUDA use nccl (own nodes) or ipc (colocated)"
        )
    if transfer not in ON_CPU and not cuda:
        raise ValueError(
            f"rollout.transfer: {transfer} needs CUDA devices and there are none; use shm, gloo (other hosts) or auto"
        )
    if cuda and (transfer == "ipc") != (placement == "colocated"):
        raise ValueError(
            f"rollout.transfer: found {transfer} with rollout.placement={placement}; ipc is for the trainer's own GPUs "
            "(colocated) and nccl for others (separate); leave it out"
        )
    return transfer


def new_api_key() -> str:
    """A random key for one run."""
    return secrets.token_urlsafe(32)


def vllm_command(
    cfg: Config,
    model_path: str | Path,
    port: int,
    api_key: str,
    *,
    host: str = "",
    cuda: bool | None = None,
    beside: int | None = None,
) -> tuple[list[str], dict[str, str]]:
    """Command line and environment of the vLLM server.

    Args:
        cfg: the run; `rollout`, `model.max_length` and `run.seed` are read.
        model_path: Hugging Face folder with safetensors and tokenizer.
        port: TCP port to listen on; readiness is `GET /health` answering 200.
        api_key: every request but /health must carry it as a bearer token. Passed in the environment, where other
            users of the machine cannot read it.
        host: address to listen on; empty: `rollout.host`. The server's weight endpoints are powerful, so this is
            loopback or the job's private interface, never all interfaces.
        cuda: whether the server has CUDA devices; None: ask torch.
        beside: the run's servers that share the cores of its host, itself included; None: all of them.

    Returns:
        argv, and the variables to set on top of the caller's own environment.

    Raises:
        ValueError: a setting cannot work; the message names its key.
    """
    rollout, host = cfg.rollout, host or cfg.rollout.host
    if not api_key:
        raise ValueError("rollout.api_key: empty, expected a key (see vllm_command.new_api_key)")
    if is_every_interface(host):
        raise ValueError(
            f"rollout.host: found {host!r}, which listens on all interfaces; name loopback or the job's own interface"
        )
    check_extra_args(rollout.extra_args)
    cuda = devices.cuda_is_available() if cuda is None else cuda
    transfer = resolve_transfer(rollout.transfer, cuda, rollout.placement)
    assert rollout.dtype != "auto", "settle_dtypes comes first: vLLM's own auto is the checkpoint's dtype"
    argv = [sys.executable, "-m", "alphamed_nemo.rollout.inside_vllm.main"]
    argv += ["--model", str(model_path), "--served-model-name", MODEL_NAME, "--host", host, "--port", str(port)]
    argv += ["--dtype", rollout.dtype, "--seed", str(cfg.run.seed), "--tensor-parallel-size", str(rollout.tensor)]
    if cfg.model.head_dtype != "model":
        argv += ["--hf-overrides", json.dumps({"head_dtype": cfg.model.head_dtype})]
    if rollout.engines > 1:
        argv += ["--data-parallel-size", str(rollout.engines)]
    # One HTTP process carries some 15,000 tokens a second, a sixth of what a node may sample (docs/rollout.md).
    argv += ["--api-server-count", str(rollout.api_servers or (rollout.devices if cuda else 1))]
    argv += ["--max-model-len", str(cfg.model.max_length), "--max-num-seqs", str(rollout.max_num_seqs)]
    # Log-probs after the temperature; the plugin takes them before top-p. Sampling defaults are neutral whatever the
    # model's generation_config.json says (its end-of-sequence ids still count).
    argv += ["--logprobs-mode", "processed_logprobs", "--generation-config", "vllm"]
    argv += ["--weight-transfer-config", json.dumps({"backend": BACKENDS[transfer]})]
    argv += ["--middleware", "alphamed_nemo.access.RequireKey"]
    argv += ["--middleware", "alphamed_nemo.rollout.inside_vllm.hanging.TellHanging"]
    argv += ["--middleware", "alphamed_nemo.rollout.inside_vllm.compact.CompactAnswers"]
    argv += ["--middleware", "alphamed_nemo.rollout.inside_vllm.instance.TellInstance"]
    if not rollout.log_stats:
        argv += ["--disable-log-stats"]
    argv += ["--disable-uvicorn-access-log", "--uvicorn-log-level", "warning", "--disable-fastapi-docs"]
    argv += _cuda_arguments(rollout, transfer) if cuda else _cpu_arguments(rollout, cfg.model.max_length)
    env = {
        "VLLM_PLUGINS": PLUGIN,  # else vLLM imports every plugin that is installed, NeMo's among them: 10 s a process
        "VLLM_SERVER_DEV_MODE": "1",  # the RL endpoints
        "VLLM_USE_RUST_FRONTEND": "0",  # it knows no middleware, so it would not ask for the key
        "VLLM_API_KEY": api_key,
        LIMIT: str(rollout.request_timeout_s),
        "ALPHAMED_SCRATCH": "VLLM_RPC_BASE_PATH",  # sockets and other files that a killed vLLM leaves (launch/child.py)
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
    }
    if rollout.top_p < 1.0:
        env["VLLM_USE_V2_MODEL_RUNNER"] = "0"  # the plugin's log-probs before top-p are written for the first runner
    if cuda:
        if transfer == "ipc":
            env["VLLM_ALLOW_INSECURE_SERIALIZATION"] = "1"  # IPC handles travel pickled
            env[ROOM] = str(rollout.gpu_memory_utilization)
    else:
        _check_head_size(Path(model_path))
        env |= _cpu_environment(rollout, beside or rollout.servers)
    return argv + list(rollout.extra_args), env


def _check_head_size(model_path: Path) -> None:
    """vLLM would start and die in the first request."""
    config = model_path / "config.json"
    if not config.exists():
        raise ValueError(f"model.path: {model_path} has no config.json, expected a Hugging Face folder")
    values = json.loads(config.read_text())
    size = values.get("head_dim") or values["hidden_size"] // values["num_attention_heads"]
    if size not in CPU_HEAD_SIZES:
        sizes = ", ".join(map(str, CPU_HEAD_SIZES))
        raise ValueError(f"{config}: heads of size {size}; vLLM's attention on CPU knows {sizes}")


def _cuda_arguments(rollout: RolloutConfig, transfer: str) -> list[str]:
    arguments = ["--gpu-memory-utilization", str(rollout.gpu_memory_utilization)]
    if rollout.quantization:
        arguments += ["--quantization", rollout.quantization]
    if transfer == "ipc":  # the trainer's GPU: vLLM gives its memory back while the trainer works
        arguments += ["--enable-sleep-mode"]
    return arguments


def _cpu_arguments(rollout: RolloutConfig, max_length: int) -> list[str]:
    one_process = ["--distributed-executor-backend", "uni"] if rollout.engines > 1 and rollout.tensor == 1 else []
    return [
        *one_process,  # for an engine and its worker, which data parallelism on CPU divides
        "--ir-op-priority",
        json.dumps({name: [CPU_NORM] for name in ("rms_norm", "fused_add_rms_norm")}),
        "--enforce-eager",  # inductor costs 20 to 30 s at start and wins nothing measurable
        "--kv-cache-memory-bytes",
        str(int(rollout.memory_gb * 2**30)),
        # vLLM 0.32 dies when a seeded request's prompt is split over two steps ("CPU Generator does not use offset"),
        # so prompts are never split.
        "--no-enable-chunked-prefill",
        "--max-num-batched-tokens",
        str(max(8192, max_length)),
        "--block-size",
        "32",  # the default 128 shares no prompt shorter than 128 tokens between the samples of a group
    ]


def engine_threads(rollout: RolloutConfig, servers: int) -> int:
    """OpenMP threads of each engine process on a CPU host that so many servers share.

    The HTTP front takes about half a core while the engine computes, so one core is left to it, or a part of each where
    there are several engines.
    """
    cores = len(os.sched_getaffinity(0)) - (servers * rollout.engines == 1)
    return rollout.threads or max(1, cores // (servers * rollout.devices))


def _cpu_environment(rollout: RolloutConfig, servers: int) -> dict[str, str]:
    """Threads and processes on a CPU host.

    vLLM's own binding would pin the engine to one core and keep its scheduler spinning for a second after each request,
    in the way of the trainer's ranks; unbound and in one process it sleeps at once.
    """
    threads = engine_threads(rollout, servers)
    env = {
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "OMP_NUM_THREADS": str(threads),
        "TORCH_COMPILE_DISABLE": "1",  # the sampler's one compiled function costs 8 s (g++) in the first request
        "CUDA_VISIBLE_DEVICES": "",
    }
    if rollout.tensor == 1:
        env["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"  # the engine computes in its own process: one process fewer
        if threads == 1:
            # Fork the engine from the HTTP front, which has imported everything already: 7 s less. Only where OpenMP
            # has no threads, because libgomp's do not survive a fork.
            env["ALPHAMED_ROLLOUT_FORK"] = "1"
    torch = importlib.util.find_spec("torch")
    libgomp = Path(torch.origin).parent / "lib" / "libgomp.so.1" if torch and torch.origin else None
    if libgomp and libgomp.exists():
        env["LD_PRELOAD"] = str(libgomp)  # one OpenMP runtime for torch and vLLM; vLLM itself can only set it by exec
    return env
