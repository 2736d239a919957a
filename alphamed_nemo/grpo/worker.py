"""One trainer rank: `torchrun -m alphamed_nemo.grpo.worker <run>/config.yaml`, or one srun task a rank."""

from __future__ import annotations

import logging
import os
import signal
import sys
import traceback
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch
from megatron.core import parallel_state
from torch.distributed.elastic.multiprocessing.errors import record

from alphamed_nemo import families
from alphamed_nemo.config import Config
from alphamed_nemo.config.files import load_config
from alphamed_nemo.config.run_folder import RunFolder
from alphamed_nemo.config.scrub import log_to_stderr
from alphamed_nemo.data.io import read_questions
from alphamed_nemo.errors import CheckpointError, one_line
from alphamed_nemo.grpo.collect import Collector, SamplingError, question_order
from alphamed_nemo.grpo.exchange import Exchange
from alphamed_nemo.grpo.mismatch import MismatchError
from alphamed_nemo.grpo.record import Logger, RunRecord
from alphamed_nemo.grpo.recovery import RolloutPlane, Servers
from alphamed_nemo.grpo.replay import Replay
from alphamed_nemo.grpo.throughput import peak_operations
from alphamed_nemo.grpo.trainer import Rollouts, Trainer
from alphamed_nemo.grpo.validation import Validation, Validator
from alphamed_nemo.grpo.waits import longest_wait
from alphamed_nemo.policy.finite import NotFiniteError
from alphamed_nemo.policy.policy import MegatronPolicy
from alphamed_nemo.policy.runtime import initialize
from alphamed_nemo.policy.weights.table import hf_shapes
from alphamed_nemo.rewards.reward_client import RewardClient
from alphamed_nemo.rewards.score import RewardError
from alphamed_nemo.rollout.carriers.ipc import Lockstep
from alphamed_nemo.rollout.connection import Connection, RolloutError, connect
from alphamed_nemo.rollout.pool import RolloutPool
from alphamed_nemo.rollout.refit import WeightTransfer, put_to_sleep
from alphamed_nemo.rollout.update_manifest import Manifest
from alphamed_nemo.run_lock import hold

log = logging.getLogger(__name__)
# Errors whose text says what is wrong; the project's own checks of settings and files raise ValueError.
TOLD = (
    CheckpointError,
    MismatchError,
    NotFiniteError,
    RolloutError,
    RewardError,
    SamplingError,
    OSError,
    ValueError,
)


@record  # so that torchrun's summary, the last lines of the log, ends with the first error and not with its own
def main(config_path: str) -> None:
    log_to_stderr(f"%(asctime)s rank {os.environ.get('RANK', 0)} %(message)s")
    stop = StopFlag()
    cfg = load_config(config_path)
    with owned(RunFolder.of(cfg)), telling():
        train(cfg, stop)


@contextmanager
def owned(folder: RunFolder) -> Iterator[None]:
    """Rank 0, which writes the run folder, owns it; another trainer of the folder ends with status 2."""
    if os.environ.get("RANK", "0") != "0":
        yield
        return
    with ExitStack() as owning:
        try:
            owning.enter_context(hold(folder.trainer_lock, "trainer"))
        except ValueError as error:
            log.error("error: %s", error)
            sys.exit(2)
        yield


@contextmanager
def telling() -> Iterator[None]:
    """Errors that explain themselves are one line of the log, before all tracebacks; the launcher shows that line."""
    try:
        yield
    except TOLD as error:
        log.error("error: %s", one_line(error))
        raise


def train(cfg: Config, stop: StopFlag) -> None:
    """Trains to the end, or until asked to stop."""
    families.register(cfg.model.families)
    initialize(cfg.parallel, cfg.run.seed, longest_wait(cfg))
    exchange = Exchange(parallel_state.get_data_parallel_rank())
    connections = connect(cfg.rollout) if exchange.rank == 0 and not cfg.grpo.replay else []
    if cfg.rollout.placement == "colocated" and torch.cuda.is_available():
        # They have taken their share of memory that the trainer is about to use.
        exchange.from_rank0(lambda: put_to_sleep(connections, cfg.run.component_timeout_s))
    updates = cfg.grpo.steps * cfg.grpo.updates_per_batch * cfg.grpo.epochs
    policy = MegatronPolicy(cfg.model, cfg.parallel, cfg.optim, cfg.model.path, total_steps=updates)
    record_of_run = open_record(cfg, policy) if exchange.rank == 0 else None
    if exchange.rank == 0:
        RunFolder.of(cfg).done.unlink(missing_ok=True)  # of a run that was shorter
    rollouts, validation = open_rollouts(cfg, policy, exchange, connections, record_of_run)
    complete = Trainer(cfg, policy, exchange, rollouts, record_of_run, validation, stop.is_set).run()
    stop.close()
    if complete and exchange.rank == 0:
        RunFolder.of(cfg).done.touch()


def open_rollouts(
    cfg: Config,
    policy: MegatronPolicy,
    exchange: Exchange,
    connections: list[Connection],
    record_of_run: RunRecord | None,
) -> tuple[Rollouts, Validation | None]:
    """Where batches come from, and what validates the policy there."""
    if cfg.grpo.replay:
        return Replay(cfg, exchange), None
    servers = connect_servers(cfg, policy, exchange, connections) if exchange.rank == 0 else None
    plane, validator = RolloutPlane(cfg, policy, exchange, servers), None
    if not cfg.validate.every:
        return plane, None
    if servers is not None and record_of_run is not None:
        pool = servers.collector.rollouts
        validator = Validator(cfg, pool, policy.tokenizer, record_of_run.write_validation)
    return plane, Validation(cfg, plane, validator)


def connect_servers(cfg: Config, policy: MegatronPolicy, exchange: Exchange, connections: list[Connection]) -> Servers:
    stream = question_order(read_questions(cfg.grpo.questions), cfg.run.seed, cfg.grpo)
    collector = Collector(
        cfg,
        stream,
        policy.tokenizer,
        RolloutPool(connections, cfg.rollout, policy.hf_config.vocab_size),
        RewardClient(cfg.reward.url, cfg.reward),
    )
    manifest = Manifest(hf_shapes(policy.hf_config), cfg.model.dtype)
    return Servers(collector, WeightTransfer(connections, cfg.rollout, manifest, lockstep=Lockstep(exchange.group)))


def open_record(cfg: Config, policy: MegatronPolicy) -> RunRecord:
    """The run's metrics, samples and loggers."""
    shared = cfg.rollout.placement == "colocated" and torch.cuda.is_available()
    devices = cfg.parallel.world_size + (0 if shared else cfg.rollout.world_size)
    folder, kept = RunFolder.of(cfg), cfg.grpo.samples_kept
    card = torch.cuda.get_device_name() if torch.cuda.is_available() else ""
    peak = peak_operations(card)
    peak = peak and peak * cfg.parallel.world_size
    decode, keep = policy.tokenizer.decode, cfg.grpo.keep_rollouts
    return RunRecord(folder, decode, keep, kept, devices, make_loggers(cfg), peak)


def make_loggers(cfg: Config) -> list[Logger]:
    from alphamed_nemo.grpo.loggers import experiment_loggers  # imports NeMo, which takes seconds: rank 0 only

    return [experiment_loggers(cfg)]


class StopFlag:
    """Set by SIGTERM or SIGUSR1 (Slurm's warning before preemption or the time limit); safe to set many times."""

    def __init__(self) -> None:
        self._set = False
        for name in (signal.SIGTERM, signal.SIGUSR1):
            signal.signal(name, self._on_signal)

    def is_set(self) -> bool:
        return self._set

    def close(self) -> None:
        """Before the interpreter ends: it restores the default, so that a repeated warning would kill the rank."""
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)

    def _on_signal(self, number: int, frame: object) -> None:
        self._set = True


if __name__ == "__main__":
    try:
        main(sys.argv[1])
        sys.exit()
    except Exception:
        traceback.print_exc()
    os._exit(1)  # the interpreter would first wait for the requests of a batch that is sampled ahead
