"""Boxes made from the ways in which one option is written, and from those in which something else is said of it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alphamed_nemo.answers.protocols import extract_answer

SETS = (
    ("Aspirin", "Warfarin", "Ibuprofen", "Chronic myeloid leukemia"),
    (r"$\alpha$ receptor", r"$\beta$ receptor", r"$\gamma$ receptor", r"$\delta$ receptor"),
    ("Na^+ falls", "Na^+ rises", "Ca^{2+} falls", "Ca^{2+} rises"),
)
ONE = (
    "{0}", "({0})", "{0}.", r"\text{{{0}}}", r"\textbf{{({0})}}", r"\mathrm{{{0}}}", r"\color{{red}} {0}",
    r"\textcolor{{blue}}{{{0}}}", r"\colorbox{{yellow}}{{{0}}}", r"\underline{{{0}}}", r"\Large\textbf{{{0}}}",
    "$ {0} $", "\u200b{0}\u200b", r"\quad {0}\ ", r"\text{{Option {0}}}", r"\text{{Answer: {0}}}", "{0}. {1}",
    "{0}: {1}", "({0}) {1}", r"{0}) {1}", "{1}", "{1} ({0})", r"{0} \checkmark", "{0} ✓", r"\boldsymbol{{{0}}}",
    "**{0}**",
)  # fmt: skip
ELSE = (
    "{0} = 4", r"{0} \neq {2}", r"\neg {0}", r"\lnot {0}", r"\bar{{{0}}}", r"\overline{{{0}}}", "{0}'", "{0}^c",
    r"\sim {0}", r"{0} \lor {2}", r"{0} \land {2}", "{0} + {2}", r"{2} \to {0}", r"\sout{{{2}}} {0}",
    r"\cancel{{{0}}}", r"\xcancel{{{0}}}", r"\text{{not }} {0}", "{0}, {2}", "{0} or {2}", "{0}/{2}",
    r"\{{{0}, {2}\}}", "{0}_2", "{0}^2", "2{0}", r"\sqrt{{{0}}}", r"\frac{{{0}}}{{{2}}}", r"\Delta {0}", "f({0})",
    r"{0}\%", "-{0}", "{0}?", r"\text{{{0} is wrong}}", "all except {0}", r"\text{{{2} is wrong, {0}}}",
    "{2}. Wait, {0}", "{0} (incorrect)", "{0}, not {2}", "{0}: {3}", "{3} ({0})", "{1}?", r"\text{{not {1}}}",
    "{1} or {3}", "", "None of the above", "E", "C{0}",
)  # fmt: skip
chosen = st.tuples(st.sampled_from(SETS), st.permutations("ABCD"))
PROTOCOLS = ("boxed", "lenient")


def filled(template: str, options: tuple[str, ...], letters: list[str]) -> str:
    first, other = letters[0], letters[1]
    return template.format(first, options["ABCD".index(first)], other, options["ABCD".index(other)])


@pytest.mark.parametrize("protocol", PROTOCOLS)
@given(template=st.sampled_from(ONE), choice=chosen)
def test_one_option_is_read_however_it_is_written(protocol, template, choice):
    box = filled(template, *choice)
    assert extract_answer(f"So \\boxed{{{box}}}", choice[0], protocol) == choice[1][0]


@pytest.mark.parametrize("protocol", PROTOCOLS)
@given(template=st.sampled_from(ELSE), choice=chosen)
def test_whatever_else_a_box_says_is_no_answer(protocol, template, choice):
    assert extract_answer(f"So \\boxed{{{filled(template, *choice)}}}", choice[0], protocol) is None
