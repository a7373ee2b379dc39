"""Hostile requests to every route of a running studio: no answer is a 5xx, and it is ready after each."""
