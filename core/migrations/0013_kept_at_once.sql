-- A finished step is kept as the event that tells of it, and all that runs do is kept in one statement for many runs.
-- A run is fenced by its attempt, how often it was begun: what an older attempt still does is not kept.

alter table jobs add column executor text;  -- the process that carries it out, or did last
alter table jobs add column version text;   -- of its steps: VERSION in orchestrator/jobs/runs.py
create index jobs_running on jobs (executor) where state = 'running';

-- An event stays as it was told, byte for byte, like an answer.
alter table job_events alter column data type json using data::json;

-- End a job with its last event; false where it had ended before.
create function end_job(of_job text, as_state text, with_answer json, with_error jsonb, name text, data json,
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

-- For orchestrators of the version before, while an upgrade rolls; tell_jobs stays for them too.
create or replace function end_job(of_job text, as_state text, with_answer json, with_error jsonb, name text,
                                   data jsonb, used_tokens bigint, used_steps bigint) returns boolean language sql as $$
    select end_job(of_job, as_state, with_answer, with_error, name, data::json, used_tokens, used_steps)
$$;

-- Keep events, each {job, attempt, key, name, data}, in their order; the last of a run has its end as well: {state,
-- answer, error, tokens, image_steps}. Gives the number of each; null where its job has ended, or a newer attempt has it.
-- Who calls sorts by job: two who do lock the jobs in the same order.
create function keep_events(told json) returns integer[] language plpgsql as $$
declare
    one json;
    of_job text;
    next integer;
    kept integer[] := '{}';
begin
    for one in select t.value from json_array_elements(told) as t loop
        of_job := one ->> 'job';
        next := null;
        if one -> 'end' is not null then
            perform from jobs where id = of_job and attempts = (one ->> 'attempt')::integer for update;
            if found and end_job(of_job, one #>> '{end,state}', one #> '{end,answer}', (one #> '{end,error}')::jsonb,
                                 one ->> 'name', one -> 'data', (one #>> '{end,tokens}')::bigint,
                                 (one #>> '{end,image_steps}')::bigint) then
                select events into next from jobs where id = of_job;
            end if;
        else
            select number into next from job_events where job = of_job and key = one ->> 'key';
            if not found then
                update jobs set events = events + 1
                 where id = of_job and ended_at is null and attempts = (one ->> 'attempt')::integer
                returning events into next;
                if found then
                    insert into job_events (job, number, key, name, data)
                    values (of_job, next, one ->> 'key', one ->> 'name', one -> 'data');
                end if;
            end if;
        end if;
        kept := array_append(kept, next);
    end loop;
    perform pg_notify('soundstage_jobs', j) from (select distinct t ->> 'job' as j from json_array_elements(told) t) x;
    return kept;
end $$;

select keep_private('keep_events', 'end_job');
