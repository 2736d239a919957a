"""The tiny model's own tokenizer: byte-level BPE, trained on the clinic's texts, saved in Hugging Face's format.

Byte level, so that any text round-trips; trained on the clinic, so that every invented name is one token and a
reasoned response has some 30 of them.
"""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from alphamed_nemo.clinic.corpus import corpus
from alphamed_nemo.clinic.world import clinic
from alphamed_nemo.config.file_writing import writing

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

BOS, EOS, PAD = "<|begin_of_text|>", "<|end_of_text|>", "<|pad|>"


def build_tokenizer(vocab: int = 1024, max_length: int = 256) -> PreTrainedTokenizerFast:
    """Train the tokenizer; the same arguments give the same one.

    Args:
        vocab: size of the vocabulary, filled up with reserved tokens, so that it equals the model's.
        max_length: tokens, the model's longest sequence.

    Raises:
        ValueError: the vocabulary is too small for every name to be one token.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    names = clinic().names()
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab,
        special_tokens=[BOS, EOS, PAD],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        min_frequency=2,
        show_progress=False,
    )
    texts = [text.prompt + text.response for text in islice(corpus(4000, 2000, 1000, seed=0), 5000)]
    # A name can open a sentence or follow a space; in both places it is to be one token.
    texts += [form for name in names for form in (name, f" {name}") for _ in range(50)]
    bpe.train_from_iterator(texts, trainer)
    reserved = vocab - bpe.get_vocab_size()
    bpe.add_special_tokens([f"<|reserved_{i}|>" for i in range(reserved)])
    split = [name for name in names if len(bpe.encode(f" {name}").ids) > 1]
    if split:
        raise ValueError(f"tiny.vocab={vocab} is too small: {len(split)} names are no single token; take 1024")
    bos = bpe.token_to_id(BOS)
    bpe.post_processor = processors.Sequence(
        [
            processors.ByteLevel(trim_offsets=False),
            processors.TemplateProcessing(single=f"{BOS} $A", pair=f"{BOS} $A $B", special_tokens=[(BOS, bos)]),
        ]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        bos_token=BOS,
        eos_token=EOS,
        pad_token=PAD,
        model_max_length=max_length,
        clean_up_tokenization_spaces=False,
    )


def save_tokenizer(folder: str | Path, vocab: int = 1024, max_length: int = 256) -> PreTrainedTokenizerFast:
    """Build the tokenizer and write it to a folder; returns it."""
    tokenizer = build_tokenizer(vocab, max_length)
    with writing(Path(folder) / "tokenizer.json"):
        tokenizer.save_pretrained(folder)
    return tokenizer
