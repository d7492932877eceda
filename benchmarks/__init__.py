"""Benchmarks: time and memory as ratios to named baselines in the same run. ``make bench``; see docs/results/scale.md."""

import classfeed_dagster  # noqa: F401  # first: it configures the allocators, for every variant alike
