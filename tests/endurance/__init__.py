"""Long runs against whole processes: `python -m tests.endurance.NAME [N]`. No part of `make test`."""
