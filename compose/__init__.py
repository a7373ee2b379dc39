"""Ways to run the studio; `make up` is compose/up.py."""
