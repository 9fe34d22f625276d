"""The recipe: what a run is, validated before anything loads."""

from fedloom.recipe.loading import load_recipe, parse_recipe, parse_yaml, read_recipe, recipe_yaml, validate_recipe
from fedloom.recipe.schema import Recipe

__all__ = ["Recipe", "load_recipe", "parse_recipe", "parse_yaml", "read_recipe", "recipe_yaml", "validate_recipe"]
