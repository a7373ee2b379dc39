-- A job's row is its place in the queue, its lease and its fence: a claim of a queued row (orchestrator/jobs/queue.py)
-- notes the executor and counts an attempt, and keep_events() keeps nothing of an older attempt.
--
-- `pool`: whose places a job waits for. A program before this one leaves it empty, and queues jobs in the schema `dbos`;
-- nothing that such a program needs is changed here (orchestrator/jobs/older.py).
alter table jobs add column pool text;

-- Each tenant's line in the queue of a pool, in its order; and how many of a pool's jobs are at work, by tenant.
create index jobs_queue on jobs (pool, tenant, priority desc, created_at, id) where state = 'queued';
create index jobs_at_work on jobs (pool, tenant) where state = 'running';
