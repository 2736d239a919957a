"""A model family of one's own: Mistral without a sliding window (7B from version 0.3 on), which is Llama in shape.

    ./run train_grpo model.families=[examples/mistral.py:MISTRAL] model.path=<Mistral-7B-Instruct-v0.3>

The same setting goes to every recipe that reads the model (convert_to_hf, evaluate, ...).
"""

from __future__ import annotations

from alphamed_nemo.families import FIXED, Family

MISTRAL = {
    "mistral": Family(
        qkv_bias=False,
        qk_norm=False,
        key_value_heads=8,  # transformers' own default
        head_dim=None,
        fixed=FIXED | {"sliding_window": None},
        stated=("sliding_window",),  # a config.json that does not say null has a window of 4096
    )
}
