"""The selfie worker: safe image reading, faces, photo quality. Nothing of a picture stays."""
