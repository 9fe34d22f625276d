"""YAML as recipes are written in it, and what is told of YAML that is none."""

from __future__ import annotations

import re
from collections.abc import Hashable
from typing import Any

import yaml

from fedloom.errors import UserError

_NUMBER = re.compile(r"^[-+]?(\d+(\.\d*)?|\.\d+)([eE][-+]?\d+)?$")
# What the parser says -> what to do about it.
_HINTS = {
    "found character '\\t'": "indent with spaces: YAML takes no tabs",
    "expected <block end>": "is this line indented as its neighbours are?",
    "mapping values are not allowed here": "a colon is followed by a space; a value that holds ': ' needs quotes",
    "expected ',' or '}'": "a value that holds ': ', a comma or a bracket needs quotes",
    "expected ',' or ']'": "a value that holds ': ', a comma or a bracket needs quotes",
    "escape": "in double quotes a backslash is special: use single quotes, or / in paths",
    "cannot start any token": "a value that begins with a special character needs quotes",
    "but found another document": "one file holds one recipe",
}


class _RecipeYaml(yaml.SafeLoader):
    """YAML 1.1 with the two fixes a recipe needs: 1e-3 is a number, and a repeated key is an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, Hashable):
                break  # the base class says so, with the line
            if key in seen:
                problem = f"the key {key!r} appears twice"
                raise yaml.constructor.ConstructorError(None, None, problem, key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)


_RecipeYaml.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    # SafeLoader reads 1e-3 (no dot) as a string; JSON and people read it as a number.
    re.compile(r"^[-+]?(\d+(\.\d*)?|\.\d+)[eE][-+]?\d+$"),
    list("-+0123456789."),
)


def parse_yaml(text: str, where: str) -> Any:
    """Read YAML.

    Args:
        text: of a file or a value.
        where: for the error message.

    Returns:
        What it says.

    Raises:
        UserError: with the line, where it is not valid.
    """
    try:
        return yaml.load(text, Loader=_RecipeYaml)
    except yaml.MarkedYAMLError as error:
        problem = str(error.problem or error.context)
        # What was opened and never closed is found out at the end, but is to be mended where it was opened.
        unclosed = "end of stream" in problem or "<stream end>" in problem
        mark = (error.context_mark or error.problem_mark) if unclosed else error.problem_mark
        place = f" line {mark.line + 1}" if mark is not None else ""
        hint = next((hint for words, hint in _HINTS.items() if words in problem), None)
        if unclosed and error.context_mark is not None:
            hint = "a quote or bracket is opened here and never closed"
        raise UserError(f"{where}{place}: not valid YAML: {problem}", hint=hint) from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise UserError(f"{where}: not valid YAML: {str(error).splitlines()[0]}") from None


def reads_as_number(text: str) -> bool:
    """Tell whether a text would be a number without its quotes."""
    return _NUMBER.match(text.strip()) is not None
