"""Names in pictures: drawn letter by letter, whatever they hold.

matplotlib reads formulas between dollar signs, hides what begins with an underscore from legends, and draws boxes for
letters that its font lacks. A name of a parameter or of a solver is none of these: it is a word.
"""

import contextlib
from collections.abc import Iterable
from typing import Any

# Characters of a name in a legend or on an axis that leave room for the picture.
_LONGEST = 40


def word(name: Any, longest: int | None = _LONGEST) -> str:
    r"""A name as it is drawn: what has no letter in the font is written as Python writes it, long middles are left out.

    Args:
        name: a text, or whatever stands for one.
        longest: characters; None for all.

    Returns:
        One line, to be drawn by a text that `literal` was called with.

    Example:
        >>> word("a$x_1$"), word("_bias"), word("first\nsecond"), word("encoder/layer/query", longest=9)
        ('a$x_1$', ' _bias', 'first\\nsecond', 'encod…uery')
    """
    text = "".join(letter if _is_drawn(letter) else _escaped(letter) for letter in str(name))
    if longest is not None and len(text) > longest:
        text = f"{text[: longest // 2 + 1]}…{text[-(longest // 2) :]}"
    # A space before it, lest it is left out of legends.
    return f" {text}" if text.startswith("_") else text


def literal(texts: Iterable[Any]) -> None:
    """Has texts of matplotlib drawn as they are, without formulas."""
    for text in texts:
        text.set_parse_math(False)
        text.set_usetex(False)


def _is_drawn(letter: str) -> bool:
    return letter.isprintable() and (letter.isascii() or any(font.get_char_index(ord(letter)) for font in _fonts()))


def _fonts() -> list[Any]:
    """Those that matplotlib looks for a letter in."""
    from matplotlib import font_manager, rcParams

    families = rcParams["font.family"]
    fonts = []
    for family in [families] if isinstance(families, str) else families:
        # One that is not installed is passed over, as where texts are drawn.
        with contextlib.suppress(ValueError):
            properties = font_manager.FontProperties(family=[family])
            fonts.append(font_manager.get_font(font_manager.findfont(properties, fallback_to_default=False)))
    return fonts or [font_manager.get_font(font_manager.findfont(font_manager.FontProperties()))]


def _escaped(letter: str) -> str:
    return letter.encode("unicode_escape").decode("ascii")
