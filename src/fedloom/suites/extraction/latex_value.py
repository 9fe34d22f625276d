r"""What a piece of LaTeX is worth: numbers, fractions, roots, powers, pi, lists of these. Nothing is ever executed.

A small grammar of our own; what it does not know has no value, and only equal writing makes it equal.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator

# Relative; a solution rounded to ten digits is another number.
TOLERANCE = 1e-12
# Beyond these, powers are not worth computing.
LARGEST_EXPONENT = 64

_TOKEN = re.compile(r"\\[a-zA-Z]+|\d[\d,]*\.?\d*|\.\d+|[-+*/^(){}\[\],]")


class _Unknown(Exception):
    """Something that the grammar has no word for."""


def same_value(one: str, other: str) -> bool:
    """Whether two pieces of LaTeX are worth the same.

    Args:
        one: normalised.
        other: likewise.

    Returns:
        False also where one of them has no value.
    """
    first, second = value_of(one), value_of(other)
    if first is None or second is None or len(first) != len(second) or _brackets(one) != _brackets(other):
        return False
    return all(math.isclose(a, b, rel_tol=TOLERANCE, abs_tol=TOLERANCE) for a, b in zip(first, second, strict=True))


def value_of(text: str) -> list[float] | None:
    """The numbers that a piece of LaTeX stands for.

    Args:
        text: LaTeX without spaces.

    Returns:
        One, or those of a list, tuple or interval in their order; None where it is anything else.
    """
    try:
        values = [_Reader(part).whole() for part in _parts(text)]
    except (_Unknown, ArithmeticError, ValueError, RecursionError):
        return None
    return values or None


def _brackets(text: str) -> str:
    """The brackets around a list, which tell open from closed intervals."""
    return text[0] + text[-1] if len(_parts(text)) > 1 and _is_enclosed(text) else ""


def _parts(text: str) -> list[str]:
    """Parts between commas outside of brackets, but for one pair around everything."""
    if _is_enclosed(text) and len(inner := _split(text[1:-1])) > 1:
        return inner
    return _split(text)


def _is_enclosed(text: str) -> bool:
    return text[:1] in {"(", "["} and text[-1:] in {")", "]"}


def _split(text: str) -> list[str]:
    depth, parts = 0, [""]
    # A comma between digits before three of them separates thousands.
    for piece in re.split(r"((?<!\d)\d{1,3}(?:,\d{3})+(?!\d)|.)", text):
        depth += (piece in {"(", "[", "{"}) - (piece in {")", "]", "}"})
        if depth < 0:
            return [text]
        if piece == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += piece
    return parts


class _Reader:
    """Reads sums of products of powers."""

    def __init__(self, text: str) -> None:
        self._tokens = list(_tokens(text))
        self._place = 0

    def whole(self) -> float:
        """The value of all tokens."""
        value = self._sum()
        if self._next() is not None or not math.isfinite(value):
            raise _Unknown
        return value

    def _next(self) -> str | None:
        return self._tokens[self._place] if self._place < len(self._tokens) else None

    def _take(self, expected: str | None = None) -> str:
        token = self._next()
        if token is None or (expected is not None and token != expected):
            raise _Unknown
        self._place += 1
        return token

    def _sum(self) -> float:
        sign = -1.0 if self._next() in {"+", "-"} and self._take() == "-" else 1.0
        value = sign * self._product()
        while self._next() in {"+", "-"}:
            value += self._product() if self._take() == "+" else -self._product()
        return value

    def _product(self) -> float:
        value, mixed = self._power(), self._tokens[self._place - 1][-1:].isdigit()
        while (token := self._next()) is not None and token not in {"+", "-", ")", "}", "]", ","}:
            if token in {"*", "\\cdot", "\\times"}:
                self._take()
                value *= self._power()
            elif token in {"/", "\\div"}:
                self._take()
                value /= self._power()
            elif token == "\\frac" and mixed:
                # 1\frac{1}{2} is one and a half.
                value += self._power()
            else:
                value *= self._power()
            mixed = False
        return value

    def _power(self) -> float:
        base = self._atom()
        if self._next() != "^":
            return base
        self._take()
        exponent = self._braced()
        if abs(exponent) > LARGEST_EXPONENT or (base < 0 and exponent != int(exponent)):
            raise _Unknown
        return float(base**exponent)

    def _braced(self) -> float:
        if self._next() != "{":
            return self._atom()
        return self._enclosed("{", "}")

    def _enclosed(self, opening: str, closing: str) -> float:
        self._take(opening)
        value = self._sum()
        self._take(closing)
        return value

    def _atom(self) -> float:
        token = self._take()
        if token[0].isdigit() or token[0] == ".":
            return float(token.replace(",", ""))
        if token == "\\pi":
            return math.pi
        if token in {"(", "{"}:
            self._place -= 1
            return self._enclosed(token, ")" if token == "(" else "}")
        if token == "\\frac":
            return self._braced() / self._braced()
        if token == "\\sqrt":
            degree = self._enclosed("[", "]") if self._next() == "[" else 2.0
            return float(math.pow(self._braced(), 1 / degree))
        raise _Unknown


def _tokens(text: str) -> Iterator[str]:
    place = 0
    while place < len(text):
        found = _TOKEN.match(text, place)
        if found is None:
            raise _Unknown
        place = found.end()
        yield found.group()
