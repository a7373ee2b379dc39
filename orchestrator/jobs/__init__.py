"""Durable runs of pipelines: a row of `jobs` is queue, lease and fence, `job_events` holds what each step gave.

Others use `part`.
"""
