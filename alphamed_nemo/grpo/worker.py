"""One trainer rank: `torchrun -m alphamed_nemo.grpo.worker <run>/config.yaml`, or one srun task a rank."""

from __future__ import annotations

import logging
import os
import signal
import sys
import traceback
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from torch.distributed.elastic.multiprocessing.errors import record

from alphamed_nemo import families
from alphamed_nemo.config import Config
from alphamed_nemo.config.files import load_config
from alphamed_nemo.config.run_folder import RunFolder
from alphamed_nemo.config.scrub import log_to_stderr
from alphamed_nemo.data.io import read_questions
from alphamed_nemo.errors import CheckpointError
from alphamed_nemo.grpo.collect import Collector
from alphamed_nemo.grpo.exchange import Exchange
from alphamed_nemo.grpo.question_stream import QuestionStream
from alphamed_nemo.grpo.record import Logger, RunRecord
from alphamed_nemo.grpo.recovery import Servers
from alphamed_nemo.grpo.trainer import Trainer
from alphamed_nemo.grpo.waits import longest_wait
from alphamed_nemo.policy.finite import NotFiniteError
from alphamed_nemo.policy.policy import MegatronPolicy
from alphamed_nemo.policy.runtime import initialize
from alphamed_nemo.policy.weights import hf_shapes
from alphamed_nemo.rewards.reward_client import RewardClient
from alphamed_nemo.rollout.client import RolloutClient
from alphamed_nemo.rollout.refit import WeightTransfer
from alphamed_nemo.rollout.update_manifest import Manifest
from alphamed_nemo.run_lock import hold

log = logging.getLogger(__name__)


@record  # so that torchrun's summary, the last lines of the log, ends with the first error and not with its own
def main(config_path: str) -> None:
    log_to_stderr(f"%(asctime)s rank {os.environ.get('RANK', 0)} %(message)s")
    stop = StopFlag()
    cfg = load_config(config_path)
    with owned(RunFolder.of(cfg)):
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


def train(cfg: Config, stop: StopFlag) -> None:
    """Trains to the end, or until asked to stop."""
    families.register(cfg.model.families)
    initialize(cfg.parallel, cfg.run.seed, longest_wait(cfg))
    exchange = Exchange()
    updates = cfg.grpo.steps * cfg.grpo.updates_per_batch * cfg.grpo.epochs
    policy = MegatronPolicy(cfg.model, cfg.parallel, cfg.optim, cfg.model.path, total_steps=updates)
    servers = connect_servers(cfg, policy) if exchange.rank == 0 else None
    record_of_run = open_record(cfg, policy) if exchange.rank == 0 else None
    if exchange.rank == 0:
        RunFolder.of(cfg).done.unlink(missing_ok=True)  # of a run that was shorter
    try:
        complete = Trainer(cfg, policy, exchange, servers, record_of_run, stop.is_set).run()
    except (CheckpointError, NotFiniteError) as error:
        log.error("%s", error)  # one line of each rank, before the tracebacks
        raise
    stop.close()
    if complete and exchange.rank == 0:
        RunFolder.of(cfg).done.touch()


def connect_servers(cfg: Config, policy: MegatronPolicy) -> Servers:
    stream = QuestionStream(read_questions(cfg.grpo.questions), cfg.run.seed, cfg.grpo.curriculum)
    collector = Collector(
        cfg,
        stream,
        policy.tokenizer,
        RolloutClient(cfg.rollout.url, cfg.rollout.api_key, cfg.rollout, policy.hf_config.vocab_size),
        RewardClient(cfg.reward.url, cfg.reward),
    )
    manifest = Manifest(hf_shapes(policy.hf_config), cfg.model.dtype)
    transfer = WeightTransfer(cfg.rollout.url, cfg.rollout.api_key, cfg.rollout, manifest)
    return Servers(collector, transfer)


def open_record(cfg: Config, policy: MegatronPolicy) -> RunRecord:
    """The run's metrics, samples and loggers."""
    devices = cfg.parallel.world_size + (0 if cfg.rollout.transfer == "ipc" else cfg.rollout.world_size)
    folder, kept = RunFolder.of(cfg), cfg.grpo.samples_kept
    return RunRecord(folder, policy.tokenizer.decode, kept, devices, make_loggers(cfg))


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
