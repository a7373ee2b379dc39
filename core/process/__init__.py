"""Child processes that cannot outlive us, and logs of bounded size."""
