"""What durable pipelines cost, and what they survive. Each is run by `python -m bench.pipelines.NAME`."""
