"""The recipe: what a run is, validated before anything loads."""

from fedloom.recipe.loading import load_recipe, parse_recipe, read_recipe, recipe_yaml, validate_recipe
from fedloom.recipe.schema import Recipe
from fedloom.recipe.yaml_text import parse_yaml

__all__ = ["Recipe", "load_recipe", "parse_recipe", "parse_yaml", "read_recipe", "recipe_yaml", "validate_recipe"]
