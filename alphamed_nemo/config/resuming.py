"""What a resumed run does with each setting: the one table, for the trainer and for docs/settings.md.

A checkpoint records the settings it was trained with. On a resume each is, setting by setting,

    taken     from the settings of now; the difference is logged
    refused   where it differs, because the checkpoint and what follows would be two runs, unless
              `run.accept_changes` names it
    unasked   not compared: where things are, what is written, how long to wait

From the checkpoint, whatever the settings say, come weights, moments, the number of updates made, the order of the
questions, and random states (in the layout that saved them). The schedule goes on as one of the present settings would
after as many updates, and ends with the last update of the present `grpo.steps`.
"""

from __future__ import annotations

from typing import Literal

from alphamed_nemo.config.files import known_settings

Resume = Literal["taken", "refused", "unasked"]

# Of a whole group; a group that is not here is unasked.
GROUPS: dict[str, Resume] = {
    "model": "taken",
    "lora": "refused",
    "parallel": "taken",
    "optim": "taken",
    "rollout": "taken",
    "reward": "refused",
    "grpo": "refused",
}

# Of single settings, where it is not the group's.
SETTINGS: dict[str, Resume] = {
    "run.seed": "refused",
    "model.path": "refused",  # by the contents of its files, wherever they are
    "model.families": "refused",
    "model.dtype": "refused",  # auto keeps the checkpoint's
    "data.prompt": "refused",
    "data.chat_template": "refused",
    "data.thinking": "refused",
    "data.template_date": "refused",
    "rollout.urls": "unasked",
    "rollout.host": "unasked",
    "rollout.port": "unasked",
    "rollout.api_key": "unasked",
    "rollout.extra_args": "unasked",  # may hold a key
    "rollout.temperature": "refused",
    "rollout.top_p": "refused",
    "reward.url": "unasked",
    "reward.host": "unasked",
    "reward.port": "unasked",
    "reward.api_key": "unasked",
    "reward.max_batch": "unasked",
    "reward.request_timeout_s": "unasked",
    "reward.retries": "unasked",
    "reward.max_response_chars": "taken",
    "grpo.steps": "taken",
    "grpo.questions": "refused",  # by the contents of the file, wherever it is
    "grpo.tokens_per_microbatch": "taken",
    "grpo.share_prompts": "taken",
    "grpo.max_token_mult_prob_error": "taken",
    "grpo.max_logprob_difference": "taken",
    "grpo.max_sampling_rounds": "taken",
    "grpo.save_every": "taken",
    "grpo.keep_checkpoints": "taken",
    "grpo.keep_rollouts": "taken",
    "grpo.samples_kept": "taken",
}

# Compared by what the files hold, not by where they are.
PLACES = ("model.path", "model.families", "grpo.questions", "grpo.loss", "reward.functions")

# What belongs to a run's identity and is no setting.
TOKENIZER = "tokenizer"


def on_resume(name: str) -> Resume:
    """What a resume does with a setting, by its dotted name."""
    return SETTINGS.get(name) or GROUPS.get(name.partition(".")[0], "unasked")


def acceptable() -> list[str]:
    """What `run.accept_changes` may name: everything that is refused otherwise."""
    return [*(name for name, *_ in known_settings() if on_resume(name) == "refused"), TOKENIZER]
