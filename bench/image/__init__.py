"""What step-level batching of mixed sizes is worth, measured."""
