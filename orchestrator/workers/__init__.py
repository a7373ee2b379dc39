"""Who can work: leases, places, queues, breakers, probes, and the servers that an admin names.

Others use `registry.WorkerPool`, `worker.Worker` and `places`.
"""
