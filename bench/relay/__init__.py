"""What a relayed request costs, beside what else one could put in front of an engine."""
