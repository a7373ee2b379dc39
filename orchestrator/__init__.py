"""The orchestrator: the gateway, the prompts, the pipelines. It reaches workers over HTTP only."""
