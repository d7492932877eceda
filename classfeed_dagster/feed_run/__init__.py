"""One run of one feed for one business date: plan, build, evaluate, publish, and the proof afterwards."""
