"""The one weight map: Megatron's parameters and Hugging Face's tensors, in both directions.

    load_hf(model_chunks, hf_config, folder)      a Hugging Face folder → any tensor × pipeline layout
    stream_hf(model_chunks, hf_config)            any layout → Hugging Face names, layer by layer (refit)
    stream_stored(skeleton, hf_config, read)      the same of weights on the disk, without a model in memory (export)

`table.py` holds the names, `transforms.py` what happens to the numbers on the way.
"""

from alphamed_nemo.policy.weights.load import load_hf
from alphamed_nemo.policy.weights.stored import Read, stream_stored
from alphamed_nemo.policy.weights.stream import stream_hf
from alphamed_nemo.policy.weights.table import hf_shapes

__all__ = ["Read", "hf_shapes", "load_hf", "stream_hf", "stream_stored"]
