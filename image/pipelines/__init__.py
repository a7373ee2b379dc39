"""What the engine can run: each module adapts one family of diffusers models."""
