"""One file per claim of speed or memory: ours beside the stock way and the bare floor, in one run."""
