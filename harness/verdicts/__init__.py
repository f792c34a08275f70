"""Records to verdicts: limits, thresholds, comparisons, history. Pure."""
