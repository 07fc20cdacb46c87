"""Names in pictures, drawn literally.

matplotlib typesets text between dollar signs as a formula, omits labels with a leading underscore from legends, and
draws boxes for characters that its font lacks. Names of parameters and solvers must be drawn as they are.
"""

import contextlib
from collections.abc import Iterable
from typing import Any

# Longest name in a legend or on an axis, in characters.
_LONGEST = 40


def word(name: Any, longest: int | None = _LONGEST) -> str:
    r"""Format a name for a picture: escape characters that the font lacks, and omit the middle of long names.

    Args:
        name: a text, or any object with a `str`.
        longest: largest number of characters; None for no limit.

    Returns:
        One line of text. Call `literal` on the matplotlib text that draws it.

    Example:
        >>> word("a$x_1$"), word("_bias"), word("first\nsecond"), word("encoder/layer/query", longest=9)
        ('a$x_1$', ' _bias', 'first\\nsecond', 'encod…uery')
    """
    text = "".join(letter if _is_drawn(letter) else _escaped(letter) for letter in str(name))
    if longest is not None and len(text) > longest:
        text = f"{text[: longest // 2 + 1]}…{text[-(longest // 2) :]}"
    # matplotlib omits names with a leading underscore from legends: prepend a space.
    return f" {text}" if text.startswith("_") else text


def literal(texts: Iterable[Any]) -> None:
    """Set matplotlib texts to be drawn as they are, without formulas."""
    for text in texts:
        text.set_parse_math(False)
        text.set_usetex(False)


def _is_drawn(letter: str) -> bool:
    return letter.isprintable() and (letter.isascii() or any(font.get_char_index(ord(letter)) for font in _fonts()))


def _fonts() -> list[Any]:
    """List the fonts in which matplotlib searches for a character."""
    from matplotlib import font_manager, rcParams

    families = rcParams["font.family"]
    fonts = []
    for family in [families] if isinstance(families, str) else families:
        # Skip a font that is not installed, as matplotlib does.
        with contextlib.suppress(ValueError):
            properties = font_manager.FontProperties(family=[family])
            fonts.append(font_manager.get_font(font_manager.findfont(properties, fallback_to_default=False)))
    return fonts or [font_manager.get_font(font_manager.findfont(font_manager.FontProperties()))]


def _escaped(letter: str) -> str:
    return letter.encode("unicode_escape").decode("ascii")
