"""Whether a response reasons before it answers."""

from __future__ import annotations


def reasons(text: str) -> bool:
    """Whether a response reasons: says something before its box beyond the sentence that states the answer.

    Works on any model's text: the box with the words of its own sentence or line is taken away, and what is left
    before it must hold at least three words.
    """
    head, box, _ = text.partition("\\boxed")
    if box:
        cut = -1
        for mark in (". ", "\n", "? ", "! "):  # the usual ones first: then little is left to search
            cut = max(cut, head.rfind(mark, max(0, cut)))
        head = head[: cut + 1]
    return len(head.split(maxsplit=3)) >= 3
