r"""One spelling for texts that mean the same: an option's, and what a response says of it.

What only looks different is made equal: quotes, dashes, full-width letters, markup, TeX's fonts and colours. What means
something stays, under one name: `$\alpha$`, "α" and "alpha"; `\neq` and "≠"; `H_2O` and "H₂O"; `10^{5}` and "10⁵".
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence

_INVISIBLE = (
    "\u00ad\u200b\u200c\u200d\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2060\u2066\u2067\u2068\u2069\ufe0e\ufe0f\ufeff"
    "\u2713\u2714\u2705"  # check marks
)
_STYLED = ((0xFF01, 0xFF5F), (0x1D400, 0x1D6A4), (0x24B6, 0x24EA))  # full-width, mathematical and circled characters
_LETTERS = {ord(char): None for char in _INVISIBLE} | {
    code: unicodedata.normalize("NFKC", chr(code)) for first, end in _STYLED for code in range(first, end)
}
_UNUSUAL = re.compile(f"[{_INVISIBLE}{''.join(f'{chr(a)}-{chr(b - 1)}' for a, b in _STYLED)}]")

_GREEK = {  # name → character
    name: unicodedata.lookup(f"GREEK {size} LETTER {word.upper()}")
    for word in "alpha beta gamma delta epsilon zeta eta theta iota kappa lamda mu nu xi pi rho sigma tau phi chi psi "
    "omega".split()
    for name, size in ((word.replace("lamda", "lambda"), "SMALL"), (word.replace("lamda", "lambda").title(), "CAPITAL"))
}
_GREEK_WORDS = str.maketrans({char: name for name, char in _GREEK.items()} | {"µ": "mu", "ϵ": "epsilon", "ϕ": "phi"})
_GREEK_CHARS = re.compile("[Α-Ωα-ωµϵϕ]")
_UNICODE = _GREEK_WORDS | str.maketrans(dict(zip("’‘“”‐‑–—−。₀₁₂₃₄₅₆₇₈₉₊₋", "''\"\"-----.0123456789+-", strict=True)))
_RAISED = re.compile("[⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻]+")
_LOWERED = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻", "0123456789+-")
_SPECIAL = re.compile(r"[{}*_`#\\~$^]")
_MARKED = re.compile(r"[{}*_`#\\~$]")
_MARKUP = str.maketrans(dict.fromkeys("{}*_`#\\~", " ") | {"$": None})

_FORMAT = frozenset(
    "text textbf textit textrm textsf texttt textnormal textup textsc textmd textsl emph mathbf mathrm mathit mathsf "
    "mathtt mathbb mathcal mathscr mathfrak mathnormal boldsymbol bm pmb bf rm it tt sf sc em tiny small normalsize "
    "large Large LARGE huge Huge bfseries itshape displaystyle textstyle quad qquad left right big Big bigg Bigg "
    "underline mbox hbox fbox boxed operatorname ensuremath centering newline par checkmark limits n t r".split()
)
_SYMBOL = {
    symbol: char
    for char, symbols in {
        "≠": "ne neq not",
        "¬": "neg lnot",
        "≤": "le leq leqslant",
        "≥": "ge geq geqslant",
        "<": "lt",
        ">": "gt",
        "≈": "approx",
        "±": "pm",
        "×": "times",
        "·": "cdot",
        "°": "circ degree",
        "→": "to rightarrow longrightarrow Rightarrow implies",
        "←": "gets leftarrow",
        "↑": "uparrow",
        "↓": "downarrow",
        "∞": "infty",
        "epsilon": "varepsilon",
        "phi": "varphi",
        "-": "textendash textemdash",
    }.items()
    for symbol in symbols.split()
}
_TEX = re.compile(
    r"\\(?:(?:text)?color\s?(?:\[[^\]]*\])?\{[^{}]*\}|colorbox\s?\{[^{}]*\}|fcolorbox\s?(?:\{[^{}]*\}){2}|[hv]space\*?\{[^{}]*\}"
    r"|(?P<name>[a-zA-Z]+)|(?P<char>.))",
    re.S,
)
_NAMED = re.compile(rf"\\(?=[a-zA-Z])({'|'.join(sorted({*_SYMBOL, *_GREEK}, key=len, reverse=True))})(?![a-zA-Z])")
_SUBSCRIPT = re.compile(r"(?<=[A-Za-z0-9)])\$?_(?:\{\s?|(?=[0-9+-]))")
_CHARGE = re.compile(r"(?<=[A-Za-z0-9)]{2})\$?\^\s?(?:\{\s?)?([+-])(?![0-9])(?:\s?\})?")  # "Na^+"
_EXPONENT = re.compile(r"\$?\^\s?(?:\{([^{}]*)\})?")


def readable(text: str) -> str:
    """`text` without invisible characters, with plain letters for full-width, mathematical and circled ones."""
    return text if text.isascii() or not _UNUSUAL.search(text) else text.translate(_LETTERS)


def replaced(text: str, chars: re.Pattern[str], by: Mapping[int, str]) -> str:
    """What `text.translate(by)` is, faster in a text with few of these characters, which `by` maps to none of them."""
    for char in set(chars.findall(text)):
        text = text.replace(char, by.get(ord(char), char))
    return text


def spelt_out(text: str) -> str:
    r"""`text` with words and signs for TeX's ("alpha" for `\alpha`) and words for Greek letters."""
    if "\\" in text:
        text = _NAMED.sub(_sign, text)
    return text if text.isascii() else replaced(text, _GREEK_CHARS, _GREEK_WORDS)


def normalise(text: str) -> str:
    """Lower case, plain quotes and dashes, single spaces; no markup, or punctuation around it."""
    return plain(text).lower()


def plain(text: str) -> str:
    """What `normalise` makes of a text, with its case kept."""
    if text.isascii() and not _SPECIAL.search(text):
        return _trimmed(text)
    if not text.isascii():
        text = _RAISED.sub(_exponent, readable(text)).translate(_UNICODE)
    if "\\" in text:
        text = _TEX.sub(_command, text)
    if "_" in text:
        text = _SUBSCRIPT.sub("", text)
    if "^" in text:
        text = _EXPONENT.sub(r"^\1", _CHARGE.sub(r"\1", text))
    if _MARKED.search(text):
        text = text.translate(_MARKUP)
    return _trimmed(text)


def all_plain(texts: Sequence[str]) -> tuple[str, ...]:
    """`plain` of each, faster where none has anything that it replaces."""
    joined = "\n".join(texts)
    return tuple(map(plain if _SPECIAL.search(joined) or not joined.isascii() else _trimmed, texts))


def _trimmed(text: str) -> str:
    return " ".join(text.split()).strip(" .,;:!\"'")


def _command(found: re.Match[str]) -> str:
    """What a TeX command means: nothing, a symbol, or a word of its own name."""
    name = found["name"]
    if name is None:
        return found["char"] if found["char"] in ("%", "&") else " "
    return " " if name in _FORMAT else _SYMBOL.get(name, name)


def _sign(found: re.Match[str]) -> str:
    return _SYMBOL.get(found[1], found[1])


def _exponent(found: re.Match[str]) -> str:
    return f"^{found[0].translate(_LOWERED)}"
