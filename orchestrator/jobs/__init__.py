"""Runs of pipelines that outlive the process which began them: called, followed, cancelled, taken up again.

Others use `service.Jobs`.
"""
