"""A run whose newest checkpoint is damaged keeps what it resumed from, what it has saved, and the damaged one."""

from __future__ import annotations

import json
from pathlib import Path

from alphamed_nemo.clinic.bank import embedded_bank
from alphamed_nemo.config import Config, ParallelConfig
from alphamed_nemo.config.run_folder import RunFolder
from alphamed_nemo.data.io import write_questions
from alphamed_nemo.grpo.checkpoints import Checkpoints
from alphamed_nemo.grpo.exchange import Exchange
from alphamed_nemo.policy.checkpoint import folder as checkpoint
from tests.integration.policy_runs import build, train
from tests.spawn import spawn

BASE = Path(__file__).parents[2] / "alphamed_nemo" / "assets" / "tiny_base"


def damaged_run(root):
    """Step resumed from, damaged ones, and the checkpoints after each of two saves, with keep_checkpoints=1."""
    cfg = Config()
    cfg.run.dir, cfg.grpo.keep_checkpoints = root, 1
    cfg.model.path, cfg.model.dtype, cfg.grpo.questions = str(BASE), "float32", f"{root}/questions.jsonl"
    write_questions(embedded_bank(8, 0)[0], cfg.grpo.questions)
    folder, policy = RunFolder.of(cfg).checkpoints, build(str(BASE), ParallelConfig())
    for step in (10, 20, 30):
        train(policy, step)
        checkpoint.save(policy, folder / f"step_{step}", {"step": step, "stream": {"epoch": 0}, "reward": 0.1})
    weights = folder / "step_30" / "__0_0.distcp"
    content = bytearray(weights.read_bytes())
    content[len(content) // 2] ^= 1
    weights.write_bytes(content)

    run = Checkpoints(cfg, policy, Exchange(data_rank=0))
    resumed, kept = run.resume(), []
    for step in (25, 40):
        run.rewards.append(0.5)
        run.save(step, {"epoch": 1})
        kept.append(sorted(path.name for path in folder.iterdir()))
    cfg.grpo.dynamic_sampling = True
    run.rewards.append(0.9)
    run.save(30, {"epoch": 1})
    states = {path.name: json.loads((path / "state.json").read_text()) for path in folder.iterdir()}
    return resumed.step, resumed.damaged, kept, {name: state.get("reward") for name, state in sorted(states.items())}


def test_a_damaged_newest_checkpoint_costs_no_whole_one(tmp_path):
    ((step, damaged, kept, rewards),) = spawn(damaged_run, 1, str(tmp_path))
    assert (step, damaged) == (20, 1)
    assert kept == [["step_20", "step_25", "step_30"], ["step_20", "step_30", "step_40"]]
    # The damaged one's step, saved again, is a whole one; its reward cannot be compared.
    assert rewards == {"step_20": 0.1, "step_30": None, "step_40": 0.5}
