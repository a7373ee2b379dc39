"""Prompt enhancement: a caller's few words become a prompt that fits its model. Contract: docs/enhancement.md."""
