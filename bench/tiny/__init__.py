"""How well the small picture model draws what it is asked for, and how fast."""
