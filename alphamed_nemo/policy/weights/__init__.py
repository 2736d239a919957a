"""The one weight map: Megatron's parameters and Hugging Face's tensors, in both directions.

    load.load_hf(model_chunks, hf_config, folder)    a Hugging Face folder → any tensor × pipeline layout
    stream.stream_hf(model_chunks, hf_config)        any layout → Hugging Face names, layer by layer (refit)
    everywhere.stream_everywhere(...)                the same on every rank, a bucket at a time (refit by IPC)
    stored.stream_stored(skeleton, hf_config, read)  the same of weights on the disk, without a model (export)

`table.py` holds the names, `transforms.py` what happens to the numbers on the way; both are imported without Megatron.
"""
