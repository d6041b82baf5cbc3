"""The benchmark: ours and the peers, measured by one harness in one run."""
