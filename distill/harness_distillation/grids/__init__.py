"""Grids that ``harness reproduce TABLE --scale SCALE`` knows: TABLE-SCALE.toml."""
