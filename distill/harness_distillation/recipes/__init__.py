"""Recipes that ship, one TOML file each; `harness distill NAME` finds them by their names."""
