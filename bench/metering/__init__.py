"""Whether what is counted is what the engine used, in every way of asking."""
