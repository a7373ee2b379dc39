"""What prompts as data cost: to keep, to resolve, to render, to prove."""
