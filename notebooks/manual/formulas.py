"""Formulas of docstrings, from their plain notation to LaTeX.

    ||A v - theta v|| = |b^H Q x|    becomes    \\lVert A v - \\theta v \\rVert = \\lvert b^{H} Q x \\rvert

Tokens keep their order. Only names of Greek letters, indices and exponents, norms, inner products, roots and arrows
change their form. A formula with any other character has no LaTeX, and its block stays as it is.
"""

import re

GREEK = set(
    re.findall("[A-Za-z]+", "alpha beta gamma epsilon eta theta lambda mu nu sigma tau omega Theta Lambda Sigma")
)
FUNCTIONS = {"tr", "diag", "max", "min", "exp", "log", "Re", "conj"}
SIGNS = {
    "<-": r"\leftarrow",
    "->": r"\to",
    "<=": r"\le",
    ">=": r"\ge",
    "~": r"\approx",
    "*": r"\ast",
    "|": r"\mid",
    "<": "<",
    ">": ">",
} | {sign: sign for sign in "=+-/,;()[]'"}
_TOKEN = re.compile(
    r"(?P<root>sqrt\()|(?P<script>[_^](?:\{[^{}]*\}|\([^()]*\)|-?[0-9]+[a-z]?|[A-Za-z]+))|(?P<norm>\|\|)"
    r"|(?P<open><(?=[A-Za-z]))|(?P<close>(?<=[A-Za-z])>)|(?P<mid>(?<= )\|(?= ))|(?P<bar>\|)|(?P<word>[A-Za-z]+)"
    r"|(?P<number>[0-9.]+)|(?P<sign><-|->|<=|>=|[~*<>=+\-/,;:()\[\]'])|(?P<space> +)"
)


def latex(block: str) -> str | None:
    """Return the LaTeX of the lines of a block, or None if it is more than formulas.

    >>> print(latex("v <- P v / ||P v||"))
    v \\leftarrow P\\, v / \\lVert P\\, v\\rVert
    """
    lines = [line.strip() for line in block.splitlines()]
    if len(lines) > 2 or (len(lines) > 1 and any("   " in line for line in lines)):
        return None
    found = [_line(line) for line in lines]
    return None if None in found else r" \\ ".join(map(str, found))


def _line(line: str) -> str | None:
    pieces, place, bars, roots, depth = [], 0, {"norm": False, "bar": False}, [], 0
    before = ""
    while place < len(line):
        match = _TOKEN.match(line, place)
        if match is None:
            return None
        kind, text = str(match.lastgroup), match.group()
        place = match.end()
        if kind == "script" and before == "name" and re.fullmatch("_[A-Za-z]{3,}", text):
            return None  # a name of Python, such as diagonal_operator
        if text == "-" and before == "space" and line[place : place + 1] != " ":
            return None  # a sign would look like a difference
        if kind in bars:
            sides = (r"\lVert ", r"\rVert") if kind == "norm" else (r"\lvert ", r"\rvert")
            pieces.append(sides[bars[kind]])
            bars[kind] = not bars[kind]
        elif kind == "root":
            roots.append(depth)
            pieces.append(r"\sqrt{")
            depth += 1
        elif text in "()":
            depth += 1 if text == "(" else -1
            is_root = text == ")" and roots[-1:] == [depth]
            pieces.append("}" if is_root and roots.pop() is not None else text)
        elif text == " ":
            pieces.append(_space(before, line[place : place + 1]))
        else:
            pieces.append(_piece(kind, text, line[place : place + 1]))
        before = "name" if kind == "word" and len(text) > 1 and text not in GREEK else kind
    if any(bars.values()) or depth or roots:
        return None
    return _sentences("".join(pieces)).strip()


def _sentences(formula: str) -> str:
    """Join words, and read an `a` between two of them as the article."""
    joined = re.sub(r" \} ?(?:\\, )?a ?(?:\\, )?\\text\{ ", " a ", formula)
    joined = re.sub(r" \} ?(?:\\, )?\\text\{ ", " ", joined)
    return joined.replace(" },", "},").replace(r" }\, ", " } ").replace(r"\, \text{ ", r"\text{ ")


def _space(before: str, following: str) -> str:
    """Return the space between two factors; none beside a sign."""
    if before == "script" and following == "(":
        return r"\; "  # d^2/dp^2 (1/N): not a product below the line
    return r"\, " if before in ("word", "name", "script") and following.isalnum() else " "


def _piece(kind: str, text: str, following: str) -> str:
    if kind == "script":
        inside = text[1:].strip("{}()")
        return f"{text[0]}{{{_index(inside)}}}"
    if kind == "word":
        return _word(text, following)
    if kind == "space":
        return r"\quad " if len(text) > 1 else " "
    return {"open": r"\langle ", "close": r"\rangle", "mid": r"\mid"}.get(kind) or SIGNS.get(text, text)


def _index(inside: str) -> str:
    is_name = re.fullmatch("[A-Za-z]{3,}", inside) is not None
    if inside in GREEK:
        return rf"\{inside}"
    return rf"\mathrm{{{inside}}}" if is_name else inside


def _word(text: str, following: str) -> str:
    if text in GREEK:
        return rf"\{text} "
    if text in FUNCTIONS:
        return rf"\mathrm{{{text}}}\,"
    if text == "sum":
        return r"\sum"
    if re.fullmatch("[A-Za-z]bar", text):
        return rf"\bar{{{text[0]}}}"
    if len(text) == 1 or re.fullmatch("d[A-Za-z]", text):
        return text
    return rf"\mathrm{{{text}}}" if following in ("_", "^", "(") else rf"\text{{ {text} }}"
