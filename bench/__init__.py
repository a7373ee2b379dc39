"""Measurements: each folder is one claim of speed, with the script that shows it."""
