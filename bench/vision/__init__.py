"""What the selfie worker finds, misses and imagines; what batching is worth; what 2,000 photos do to its memory."""
