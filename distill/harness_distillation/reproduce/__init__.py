"""``harness reproduce``: the paper's tables as grids of arm x seed, planned, run and printed."""
