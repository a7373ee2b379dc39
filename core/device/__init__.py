"""One device for several workers: who has it, who waits for it, and how its loss shows."""
