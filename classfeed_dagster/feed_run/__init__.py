"""One run of a feed for one business date: plan, build, evaluate and publish, then reconcile and load."""
