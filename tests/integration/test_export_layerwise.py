"""Models whose layers are in memory one at a time compute what whole models compute, and other models are refused."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from alphamed_nemo.config import ParallelConfig
from alphamed_nemo.export.logits import megatron_logits, probe, transformers_logits
from alphamed_nemo.policy.checkpoint import folder as checkpoint
from alphamed_nemo.policy.checkpoint.stored_weights import CheckpointWeights
from alphamed_nemo.policy.model import build_skeleton
from alphamed_nemo.policy.runtime import initialize
from tests import tiny_hf
from tests.integration.policy_runs import build
from tests.spawn import spawn
from tests.tiny_hf import CONFIGS, write_model


def both_ways(hf, folder):
    """Logits of each sequence by Megatron and by transformers: of the whole model, and a layer at a time."""
    policy = build(hf, ParallelConfig(), optim=None)
    checkpoint.save(policy, folder, {"step": 0})
    config = policy.hf_config
    ids = probe(config.vocab_size)
    whole = tiny_hf.megatron_logits(policy.model, config.vocab_size, ids).split(list(map(len, ids)))
    skeleton = build_skeleton(config)
    assert all(parameter.is_meta for parameter in skeleton.parameters())
    read = partial(CheckpointWeights(skeleton, folder).read, dtype=torch.float32)
    in_parts = megatron_logits(config, read, ids)
    theirs = AutoModelForCausalLM.from_pretrained(hf, dtype=torch.float32).eval()
    with torch.no_grad():
        whole_theirs = [theirs(torch.tensor([sequence])).logits[0] for sequence in ids]
    return list(whole), in_parts, whole_theirs, transformers_logits(hf, ids)


def all_both_ways(folder):
    return {name: both_ways(str(write_model(folder / name, name)), folder / f"{name}-checkpoint") for name in CONFIGS}


def test_a_layer_at_a_time_gives_the_logits_of_the_whole_model(tmp_path):
    for name, logits in spawn(all_both_ways, 1, tmp_path)[0].items():
        for whole, in_parts, whole_theirs, in_parts_theirs in zip(*logits, strict=True):
            assert whole.std() > 0.1, name
            # Packed or padded beside other sequences, the same sums are taken in another order.
            torch.testing.assert_close(in_parts, whole, rtol=0, atol=4e-6, msg=name)
            torch.testing.assert_close(in_parts_theirs, whole_theirs, rtol=0, atol=4e-6, msg=name)


def saved(hf, folder):
    checkpoint.save(build(hf, ParallelConfig(tensor=2), optim=None), folder, {"step": 0})


def refusals(configs, folder):
    initialize(ParallelConfig())
    messages = []
    for config in configs:
        with pytest.raises(checkpoint.CheckpointError) as error:
            CheckpointWeights(build_skeleton(config), folder)
        messages.append(str(error.value))
    return messages


def test_a_checkpoint_of_another_model_is_refused_before_anything_is_read(tmp_path):
    hf = str(write_model(tmp_path / "base", "llama-tied-odd-vocabulary"))
    spawn(saved, 2, hf, str(tmp_path / "step_0"))
    wider, smaller, own_head = (AutoConfig.from_pretrained(hf) for _ in range(3))
    wider.intermediate_size += 8
    smaller.vocab_size -= 3  # more than the padding of two ranks
    own_head.tie_word_embeddings = False
    of_mlp, of_vocabulary, of_head = spawn(refusals, 1, [wider, smaller, own_head], str(tmp_path / "step_0"))[0]
    assert "step_0: decoder.layers.0.mlp.linear_fc1.weight_w: found shape (64, 48), the model has (72, 48)" in of_mlp
    assert "embedding.word_embeddings.weight: found shape (72, 48), the model has (68, 48)" in of_vocabulary
    assert "only in the model: ['output_layer.weight']" in of_head
