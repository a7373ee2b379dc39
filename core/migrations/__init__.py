"""Numbered SQL files, plain enough for any migration tool to apply as they are."""
