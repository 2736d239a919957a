"""Responses that name several options, or answer several questions: what a careful reader takes for the answer."""

from __future__ import annotations

import pytest

from alphamed_nemo.answers.protocols import extract_answer

OPTIONS = ("Aspirin", "Warfarin", "Ibuprofen", "Chronic myeloid leukemia")
MINERALS = (
    "Iron is stored as ferritin.",
    "Zinc is lost through the skin.",
    "Copper is bound to ceruloplasmin.",
    "Iodine is taken up by the thyroid.",
    "Gold is not needed.",
    "Lead is not needed.",
    "Tin is not needed.",
    "Silver is not needed.",
    "Radium is not needed.",
)
CASES = [  # kind, options, answer, responses
    (
        "two options with their texts",
        OPTIONS,
        None,
        [
            '{"reasoning": "Both thin the blood.", "answer": "A. Aspirin or B. Warfarin"}',
            "The answer is **A. Aspirin** and **C. Ibuprofen**.",
            "The most appropriate drugs are these. The answer is (B) Warfarin and (D) Chronic myeloid leukemia.",
            "Final answer: C) Ibuprofen or A) Aspirin",
            "The answer is a combination of (A) and (C).",
            "The answer is (A). However, the final answer is a combination of (A) and (C).",
            "The answer is `A and C`.",
            "The answer is (A) for the first part, (C) for the second part.",
            "The answer is:\n- **Aspirin**\n- **Ibuprofen**",
        ],
    ),
    (
        "two options with their texts",
        OPTIONS,
        "C",
        [
            "The answer is (C) Ibuprofen and not (A) Aspirin.",
            "The answer is (C) Ibuprofen and it relieves pain.",
            "The answer is (C) for the following reason: it blocks COX.",
            "The answer is:\n- **Ibuprofen**\n- It blocks COX.",
            "The answer is `C`, and A is wrong.",
        ],
    ),
    (
        "options that are called wrong together",
        MINERALS,
        None,
        ["None is needed, so (F), (G), (H), and (E) are incorrect.", "So A, B and C are wrong. It goes on and"],
    ),
    (
        "a small letter at the end of a remark in brackets",
        MINERALS,
        None,
        ["The second allele may be any (since the father has none, it must be i)."],
    ),
    (
        "an option that is denied at length",
        OPTIONS,
        "C",
        ["The answer is not (A) Aspirin, since it bleeds more easily, but rather (C) Ibuprofen, which does not."],
    ),
    (
        "the nearest of several values",
        OPTIONS,
        "C",
        ["It is about 99, so the answer is closest to (C).", "The answer is nearest to C."],
    ),
    (
        "answers to several questions",
        MINERALS,
        "B",
        [
            "Zinc is lost with sweat. The answer is (B).\n\nNow, combining all the answers:\nThe answer is (D).",
            "The answer is (B).\n\nNow, let's summarize all the answers:\nA. Front\nB. Back\nThe answer is (C).",
            "The answer is (B).\n\nLet's summarise the final answers to all questions:\n1. The answer is (D).",
            "Zinc is lost.\n\nCombining all the answers:\nThe answer is (B).",
        ],
    ),
    (
        "answers to several questions",
        MINERALS,
        None,
        ["The answer is (A).\nThe answer is (C).\nThe answer is (B).\nThe answer is (B).\n"],
    ),
    (
        "a response that goes from one option to the next and breaks off",
        MINERALS,
        None,
        [
            "Iron is stored as ferritin. It is needed. Zinc is lost through the skin. Copper is bound to",
            "Copper is bound to ceruloplasmin. Iodine is taken up by the thyroid. The answer is (",
        ],
    ),
    (
        "a response that goes from one option to the next and breaks off",
        MINERALS,
        "C",
        [
            "Copper is bound to ceruloplasmin. Zinc is lost through the skin, but that is not asked here.",
            "Copper is bound to ceruloplasmin. This protein carries it to the tissues, and from there",
        ],
    ),
]


@pytest.mark.parametrize(("kind", "options", "answer", "responses"), CASES, ids=[f"{c[0]}: {c[2]}" for c in CASES])
def test_kind(kind: str, options: tuple[str, ...], answer: str | None, responses: list[str]) -> None:
    read = {response: extract_answer(response, options, "lenient") for response in responses}
    assert read == dict.fromkeys(responses, answer)
