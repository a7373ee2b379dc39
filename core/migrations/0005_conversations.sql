-- What the older chat and enhancement endpoints keep: conversations with their turns, prompts that were enhanced, and
-- the jobs of a queue that were taken.

-- -- conversations: of one key; who answers in one holds it until busy_until --------------------------------------------

create table conversations (
    key_id     text not null references api_keys (id) on delete cascade,
    id         text not null check (length(id) between 1 and 200),
    created_at timestamptz not null default now(),
    expires_at timestamptz not null,
    busy_by    text,
    busy_until timestamptz not null default '-infinity',
    primary key (key_id, id)
);

create index conversations_expire on conversations (expires_at);

create table conversation_turns (
    key_id       text not null,
    conversation text not null,
    position     bigint generated always as identity,
    message_id   text not null,
    role         text not null check (role in ('user', 'assistant')),
    content      text not null check (length(content) <= 200000),
    tokens       integer not null check (tokens >= 0),
    primary key (key_id, conversation, position),
    foreign key (key_id, conversation) references conversations (key_id, id) on delete cascade
);

-- -- enhancements: a cache, bounded by its writers ----------------------------------------------------------------------

create table enhancements (
    id         bigint generated always as identity primary key,
    key        text not null unique check (key ~ '^[0-9a-f]{64}$'),
    tenant     text not null references tenants (id) on delete cascade,
    job_type   text not null,
    body       text not null check (length(body) between 1 and 100000),
    source     text not null check (source in ('edge_function', 'worker_fallback')),
    created_at timestamptz not null default now()
);

-- -- jobs of a queue: one row for each id, so that a job that is delivered twice has its effect once --------------------

create table queue_jobs (
    queue      text not null,
    id         text not null check (length(id) between 1 and 200),
    state      text not null default 'running' check (state in ('running', 'done', 'failed')),
    tries      integer not null default 0 check (tries >= 0),
    held_by    text,
    held_until timestamptz not null default '-infinity',
    result     jsonb,
    created_at timestamptz not null default now(),
    ended_at   timestamptz,
    primary key (queue, id),
    check ((state = 'running') = (ended_at is null))
);

create index queue_jobs_ended on queue_jobs (ended_at);
