"""The chat worker: vLLM engines as child processes, relayed by model. It holds no prompt and changes none."""
