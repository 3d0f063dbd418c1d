"""What the benchmarks share: timing, checks, reports, the published code, work on a GPU."""
