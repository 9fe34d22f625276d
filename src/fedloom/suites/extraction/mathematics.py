r"""Answers of MATH (arXiv 2103.03874): the last \boxed{}, compared after the authors' normalisation of LaTeX."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from fedloom.suites.extraction.grader import Graded
from fedloom.suites.extraction.latex_value import same_value

# Written in place one after another, in this order.
_REPLACED = (
    ("\n", ""),
    ("\\!", ""),
    ("\\\\", "\\"),
    ("tfrac", "frac"),
    ("dfrac", "frac"),
    ("\\left", ""),
    ("\\right", ""),
    ("^{\\circ}", ""),
    ("^\\circ", ""),
    ("\\$", ""),
)
_UNIT = "\\text{ "


def last_boxed(text: str) -> str | None:
    r"""The contents of the last \boxed{...} or \fbox{...} of a text.

    Args:
        text: a solution.

    Returns:
        What is between its braces or, of "\boxed 5", what follows up to a dollar sign; None where there is none, or it
        is never closed.
    """
    places = list(re.finditer(r"\\(?:boxed|fbox)(?=\s*\{|\s)", text))
    if not places:
        return None
    rest = text[places[-1].end() :].lstrip()
    if not rest.startswith("{"):
        return rest.split("$")[0].strip() or None
    depth = 0
    for place, character in enumerate(rest):
        depth += (character == "{") - (character == "}")
        if depth == 0:
            return rest[1:place]
    return None


def normalised(answer: str) -> str:
    r"""An answer as the authors compare it.

    Units, degrees, percent and dollar signs, spaces and \left, \right go; so does a short "x = " in front; \tfrac and
    \dfrac are \frac; arguments are put into braces; 0.5, .5 and 1/2 are \frac{1}{2}.

    Args:
        answer: LaTeX.

    Returns:
        LaTeX.
    """
    for old, new in _REPLACED:
        answer = answer.replace(old, new)
    # The authors found "\text{ " before units only.
    answer = answer.split(_UNIT)[0]
    answer = answer.replace("\\%", "").replace(" .", " 0.").replace("{.", "{0.")
    if answer.startswith("."):
        answer = f"0{answer}"
    name, equals, value = answer.partition("=")
    if equals and "=" not in value and len(name) <= 2:
        answer = value
    answer = re.sub(r"\\sqrt([^{\[])", r"\\sqrt{\1}", answer).replace(" ", "")
    answer = _braced_fractions(answer)
    if answer == "0.5":
        return "\\frac{1}{2}"
    return re.sub(r"\A(-?\d+)/(-?\d+)\Z", r"\\frac{\1}{\2}", answer)


def grade_mathematics(fields: Mapping[str, Any], text: str) -> Graded:
    """Compare what is in the last box.

    Args:
        fields: gold, LaTeX.
        text: an answer.

    Returns:
        accuracy: whether both are the same after normalisation; equivalent: whether they are, or are worth the same.
    """
    found, gold = last_boxed(text), fields["gold"]
    same = found is not None and normalised(found) == normalised(gold)
    alike = same or (found is not None and same_value(normalised(found), normalised(gold)))
    return Graded(found, gold, {"accuracy": float(same), "equivalent": float(alike)})


def _braced_fractions(text: str) -> str:
    r"""\frac12 and \frac1{72} with both arguments in braces; \frac{72}1 stays, as with the authors."""
    parts = text.split("\\frac")
    braced = parts[0]
    for part in parts[1:]:
        if part and part[0] != "{":
            if len(part) < 2:
                return text
            below = part[1:] if part[1] == "{" else f"{{{part[1]}}}{part[2:]}"
            part = f"{{{part[0]}}}{below}"
        braced += f"\\frac{part}"
    return braced
