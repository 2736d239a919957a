"""Settings that follow from others unless they are set: filled in once, before any check or process.

What a run's config.yaml holds is therefore what was used, and a resume sees the same.
"""

from __future__ import annotations

import logging
from pathlib import Path

from alphamed_nemo.config import Config
from alphamed_nemo.config.run_folder import fill_paths
from alphamed_nemo.data.chat import is_instruct_folder

log = logging.getLogger(__name__)

NEXT_QUESTION = ("\nQuestion:", "\nHuman:", "\nUser:", "\n### Instruction")  # how a next one begins


def fill_derived(cfg: Config) -> Config:
    """Gives every setting that was left to follow its value. Changes `cfg` and returns it."""
    fill_paths(cfg)
    fill_lengths(cfg)
    cfg.rollout.servers = len(cfg.rollout.urls) or cfg.rollout.servers
    fill_chat_template(cfg)
    fill_stop(cfg)
    return cfg


def fill_lengths(cfg: Config) -> None:
    """Labels and evaluation may answer as long as a rollout; the model holds the longest prompt and response."""
    cfg.label.max_new_tokens = cfg.label.max_new_tokens or cfg.rollout.max_new_tokens
    cfg.evaluate.max_new_tokens = cfg.evaluate.max_new_tokens or cfg.rollout.max_new_tokens
    longest = max(cfg.rollout.max_new_tokens, cfg.label.max_new_tokens, cfg.evaluate.max_new_tokens)
    cfg.model.max_length = cfg.model.max_length or cfg.data.max_prompt_tokens + longest


def fill_chat_template(cfg: Config) -> None:
    """On for an instruct model, where the model's folder is there to tell."""
    if cfg.data.chat_template is not None:
        return
    folder = next((path for path in (cfg.model.path, cfg.evaluate.model) if path and Path(path).is_dir()), None)
    if folder is not None:
        cfg.data.chat_template = is_instruct_folder(folder)
        form = "with the model's chat template" if cfg.data.chat_template else "plain text, no chat template"
        log.info("prompts: %s (data.chat_template)", form)


def fill_stop(cfg: Config) -> None:
    """A base model goes on with a next question, which a response does not need; a chat model ends its turn."""
    if cfg.evaluate.stop is None and cfg.data.chat_template is not None:
        cfg.evaluate.stop = [] if cfg.data.chat_template else list(NEXT_QUESTION)
