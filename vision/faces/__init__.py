"""Face detectors behind one protocol. Each loads its runtime when it is made, not when it is imported."""
