-- Requests at once of a key or a tenant, for all orchestrators together: each holds some places and gives them out.

create table slots (
    owner        text not null,
    orchestrator text not null,
    held         integer not null check (held > 0),
    until        timestamptz not null,
    primary key (owner, orchestrator)
);

-- Hold `wanted` places of `most`, or as many as the others leave, for so many seconds; 0 gives all back. Those of an
-- orchestrator that was not heard of are free again. The lock makes two who ask at once take turns.
create function hold_slots(of_owner text, who text, wanted integer, most integer, seconds double precision)
returns integer language plpgsql as $$
declare
    others integer;
    granted integer;
begin
    perform pg_advisory_xact_lock(hashtextextended(of_owner, 5460046));
    delete from slots where owner = of_owner and until < clock_timestamp();
    select coalesce(sum(held), 0) into others from slots where owner = of_owner and orchestrator <> who;
    granted := greatest(0, least(wanted, most - others));
    if granted = 0 then
        delete from slots where owner = of_owner and orchestrator = who;
    else
        insert into slots (owner, orchestrator, held, until)
        values (of_owner, who, granted, clock_timestamp() + make_interval(secs => seconds))
            on conflict (owner, orchestrator) do update set held = excluded.held, until = excluded.until;
    end if;
    return granted;
end $$;
