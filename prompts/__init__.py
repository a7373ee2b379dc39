"""Prompts as data: templates, releases and labels in the database; linted when saved, rendered in a sandbox."""
