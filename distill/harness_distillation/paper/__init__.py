"""The paper's tables as data (README.md); a reference beside ours, never a row of it."""
