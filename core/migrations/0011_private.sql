-- Nothing here is for a database's public roles. On Supabase every table of the schema `public` is offered to the roles
-- anon and authenticated; ours are closed to both, by privilege and by row level security without a policy. The owner of
-- the tables, as which the orchestrator connects, sees everything as before.

-- Tables and functions by name; names that are not here are left out. A later migration that makes a table or a function
-- calls this for it.
create function keep_private(variadic names text[]) returns void language plpgsql as $$
declare
    one text;
    thing text;
    role text;
begin
    foreach one in array names loop
        for thing in
            select format('table %s', c.oid::regclass) from pg_class c
             where c.relname = one and c.relnamespace = current_schema()::regnamespace and c.relkind in ('r', 'p')
            union all
            select format('function %s', p.oid::regprocedure) from pg_proc p
             where p.proname = one and p.pronamespace = current_schema()::regnamespace
        loop
            if thing like 'table %' then
                execute format('alter %s enable row level security', thing);
            end if;
            execute format('revoke all on %s from public', thing);
            for role in select rolname from pg_roles where rolname in ('anon', 'authenticated') loop
                execute format('revoke all on %s from %I', thing, role);
            end loop;
        end loop;
    end loop;
end $$;

select keep_private(
    'schema_migrations',
    'tenants', 'api_keys', 'workers', 'templates', 'template_versions', 'recipes', 'releases', 'release_messages',
    'labels', 'epoch', 'policies', 'policies_in_force', 'template_includes', 'golden_renders', 'label_moves', 'audit',
    'audit_head', 'runs', 'run_contents', 'likenesses', 'conversations', 'conversation_turns', 'enhancements',
    'queue_jobs', 'key_uses', 'quotas', 'enhancement_flights', 'jobs', 'job_events', 'engines', 'engine_keys',
    'drained_workers', 'model_aliases', 'slots',
    'refuse_change', 'bump_epoch', 'forbid', 'policy_exists', 'release_policy_exists', 'release_is_open',
    'template_is_open', 'template_is_visible', 'include_is_visible', 'label_may_move', 'record_label_move',
    'audit_chain', 'head_follows', 'record_change', 'contents_wanted', 'likeness_only_ends', 'canaries_whole',
    'run_may_end', 'limits_whole', 'take_quota', 'return_quota', 'job_has_ended', 'tell_jobs', 'end_job', 'hold_slots',
    'keep_private'
);
