"""Where upper and lower case make a difference: `BB × bb` is another cross than `Bb × bb`, `IRON` is no other metal."""

from __future__ import annotations

import re

from alphamed_nemo.data.question import same_text

# A word of doubled letters in any case: Aa, bb, TtGg. Roman two, millimetres and cubic centimetres only look like it.
GENOTYPE = re.compile(r"(?<!\w)(?!(?i:ii|mm|cc)(?!\w))(?:([A-Za-z])(?i:\1))+(?!\w)")
STYLED = re.compile(r"(?<!\w)(?:[^\W\d_][^\W\d_A-Z]{3,}|[A-Z]{4,})(?!\w)")  # Iron, iron or IRON, but not pH, Na or mRNA


def fold(text: str) -> str:
    """Small letters, except in genotypes."""
    parts, end = [], 0
    for match in GENOTYPE.finditer(text):
        parts += [text[end : match.start()].casefold(), match.group()]
        end = match.end()
    return "".join(parts) + text[end:].casefold()


def same_words(option: str) -> str:
    """An option in the form in which two differ by more than the style of their letters."""
    shown = same_text(option)
    return STYLED.sub(lambda word: word[0] if GENOTYPE.fullmatch(word[0]) else word[0].casefold(), shown)
