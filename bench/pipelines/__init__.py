"""What durable pipelines cost, and what they survive: overhead, kill and two, each `python -m bench.pipelines.NAME`."""
