"""The routes that a person reads in /docs. The relay's paths are raw ASGI: orchestrator/gateway.py."""
