-- Runs of pipelines: who asked for what, how it went, and each event of it. The durable engine keeps the finished steps
-- in a schema of its own; the texts of a request stand only here, and go when the run is purged.

create table jobs (
    id              text primary key check (id ~ '^job_[0-9a-f]{24}$'),
    pipeline        text not null check (length(pipeline) between 1 and 64),
    tenant          text not null references tenants (id) on delete cascade,
    key_id          text not null references api_keys (id) on delete cascade,
    way             text not null check (way in ('wait', 'stream', 'background')),
    state           text not null default 'queued'
                    check (state in ('queued', 'running', 'completed', 'failed', 'cancelled')),
    priority        smallint not null default 0 check (priority between 0 and 9),
    caller          jsonb not null,
    request         jsonb not null,
    request_sha256  text not null check (request_sha256 ~ '^[0-9a-f]{64}$'),
    idempotency_key text check (length(idempotency_key) between 1 and 255),
    webhook         text,
    webhook_state   text check (webhook_state in ('waiting', 'delivered', 'given_up')),
    webhook_tries   integer not null default 0,
    webhook_at      timestamptz not null default now(),
    answer          json,  -- as it was given, byte for byte
    error           jsonb,
    tokens          bigint not null default 0 check (tokens >= 0),
    image_steps     bigint not null default 0 check (image_steps >= 0),
    attempts        integer not null default 0,
    events          integer not null default 0,
    created_at      timestamptz not null default now(),
    started_at      timestamptz,
    ended_at        timestamptz,
    deadline_at     timestamptz not null,
    check ((state in ('completed', 'failed', 'cancelled')) = (ended_at is not null)),
    check ((state = 'completed') = (answer is not null)),
    check ((state in ('failed', 'cancelled')) = (error is not null)),
    check ((webhook is null) = (webhook_state is null))
);

-- The same key of a caller names the same run for as long as the run is kept.
create unique index jobs_idempotency on jobs (key_id, idempotency_key) where idempotency_key is not null;
create index jobs_of_key on jobs (key_id, created_at desc);
create index jobs_open on jobs (tenant, pipeline, created_at) where ended_at is null;
create index jobs_ended on jobs (ended_at) where ended_at is not null;
create index jobs_webhooks on jobs (webhook_at) where webhook_state = 'waiting' and ended_at is not null;

-- What ended stays as it ended, whoever comes late.
create function job_has_ended() returns trigger language plpgsql as $$
begin
    if old.ended_at is not null and (new.state, new.answer::text, new.error, new.ended_at, new.events)
                        is distinct from (old.state, old.answer::text, old.error, old.ended_at, old.events) then
        raise exception 'the job % has ended', old.id using errcode = 'restrict_violation';
    end if;
    return new;
end $$;

create trigger ends_once before update on jobs for each row execute function job_has_ended();

-- `number` counts from 1 without a gap; `key` names an event within its run, so that a step which is done again tells
-- nothing twice.
create table job_events (
    job    text not null references jobs (id) on delete cascade,
    number integer not null check (number > 0),
    key    text not null,
    name   text not null,
    data   jsonb not null,
    at     timestamptz not null default now(),
    primary key (job, number),
    unique (job, key)
);

-- Append events, each {job, key, name, data}, in their order; one that was told, or whose job has ended, is left out.
create function tell_jobs(told jsonb) returns void language plpgsql as $$
declare
    one record;
    next integer;
begin
    for one in select t.value ->> 'job' as job, t.value ->> 'key' as key, t.value ->> 'name' as name,
                      t.value -> 'data' as data
                 from jsonb_array_elements(told) with ordinality as t (value, place)
                order by t.value ->> 'job', t.place  -- two who tell lock the jobs in the same order
    loop
        update jobs set events = events + 1
         where id = one.job and ended_at is null
           and not exists (select from job_events e where e.job = one.job and e.key = one.key)
        returning events into next;
        if found then
            insert into job_events (job, number, key, name, data) values (one.job, next, one.key, one.name, one.data);
        end if;
    end loop;
    perform pg_notify('soundstage_jobs', j) from (select distinct t ->> 'job' as j from jsonb_array_elements(told) t) x;
end $$;

-- End a job with its last event; false where it had ended before.
create function end_job(of_job text, as_state text, with_answer json, with_error jsonb, name text, data jsonb,
                        used_tokens bigint, used_steps bigint) returns boolean language plpgsql as $$
declare
    last integer;
begin
    update jobs set events = events + 1, state = as_state, answer = with_answer, error = with_error, ended_at = now(),
                    tokens = used_tokens, image_steps = used_steps, webhook_at = now(),
                    -- "Come again later" is no answer: who comes again with the same key is served.
                    idempotency_key = case when (with_error ->> 'status')::integer in (429, 503) then null
                                           else idempotency_key end
     where id = of_job and ended_at is null
    returning events into last;
    if not found then return false; end if;
    insert into job_events (job, number, key, name, data) values (of_job, last, 'end', name, data);
    perform pg_notify('soundstage_jobs', 'ended ' || of_job);
    return true;
end $$;
