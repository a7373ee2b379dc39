"""JSON: its canonical form and hash, how much of it a body holds, and decoding with our errors."""
