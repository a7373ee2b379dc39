"""Jobs from a queue: taken at least once, with an effect exactly once. Contract: docs/enhancement.md."""
