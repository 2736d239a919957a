"""One time limit for every process group, which follows from the settings."""

from __future__ import annotations

import os
from datetime import timedelta
from pathlib import Path

import pytest

from alphamed_nemo.config import Config, ParallelConfig
from alphamed_nemo.grpo.waits import DISK_S, batch_s, longest_wait
from tests.spawn import spawn

ROOT = Path(__file__).resolve().parents[2]


def limits_of_all_groups(seconds):
    """Every group of a trainer rank: Megatron's, torch's own, and the one for rank 0's results."""
    import torch
    import torch.distributed as dist

    from alphamed_nemo.grpo.exchange import Exchange
    from alphamed_nemo.policy import runtime

    dist.destroy_process_group()
    os.environ.pop("RANK")
    runtime.initialize(ParallelConfig(), timeout=timedelta(seconds=seconds))
    Exchange(data_rank=0)
    groups = dist.distributed_c10d._world.pg_map
    found = [group._get_backend(torch.device("cpu")).options._timeout for group in groups]
    dist.barrier()
    return found


def test_every_group_has_the_limit_rounded_up_to_minutes():
    (found,) = spawn(limits_of_all_groups, 1, 7_230.0)
    assert len(found) > 10
    assert set(found) == {timedelta(minutes=121)}


def test_groups_are_made_in_one_place():
    made = [
        str(path.relative_to(ROOT))
        for path in (ROOT / "alphamed_nemo").rglob("*.py")
        if "new_group(" in path.read_text() or "init_process_group(" in path.read_text()
    ]
    assert made == ["alphamed_nemo/policy/runtime.py"]


def test_the_limit_is_longer_than_what_rank_0_may_wait_for():
    """By hand: 24 questions of 4 samples, 12 requests at once, so 2 turns; 96 responses in batches of 50."""
    cfg = Config()
    cfg.grpo.questions_per_step, cfg.grpo.samples_per_question = 24, 4
    cfg.rollout.max_num_seqs, cfg.rollout.request_timeout_s = 32, 100.0
    cfg.reward.max_batch, cfg.reward.retries, cfg.reward.request_timeout_s = 50, 1, 20.0
    cfg.run.component_timeout_s = 700.0
    batch = 2 * 100.0 + 2 * (1 + 2) * (20.0 + 5.0)  # tries for 1 + 1 limits, and the last one
    assert batch_s(cfg) == batch
    assert longest_wait(cfg).total_seconds() == batch + 700.0 + 2 * 100.0 + DISK_S
    cfg.grpo.max_sampling_rounds = 7
    assert batch_s(cfg) == batch
    cfg.grpo.dynamic_sampling = True
    assert batch_s(cfg) == 7 * batch


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [
        ("run", "component_timeout_s", 1e6),
        ("rollout", "request_timeout_s", 1e6),
        ("reward", "request_timeout_s", 1e6),
    ],
)
def test_no_limit_of_the_settings_is_longer(section, key, value):
    cfg = Config()
    setattr(getattr(cfg, section), key, value)
    assert longest_wait(cfg).total_seconds() > value
