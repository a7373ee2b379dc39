"""HTTP as all services speak it: the shell around an application, the relay, and what they refuse.

The only place that touches the inside of a library (`protocol`, uvicorn's).
"""
