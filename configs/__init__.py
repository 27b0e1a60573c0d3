"""Recipes: one YAML file each, under train/ and robustness/."""
