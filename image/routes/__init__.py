"""The image worker's HTTP surface, by who calls it."""
