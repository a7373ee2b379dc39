"""Runs of pipelines that outlive the process which began them: calling, following, ending, taking up again."""
