"""The image worker: requests of any size join and leave at every denoising step."""
