-- How much a key, and all keys of a tenant together, may ask for; and how much of it is spent, for all orchestrators.

create function limits_whole(limits jsonb) returns boolean language sql immutable as $$
    select jsonb_typeof(limits) = 'object'
       and not exists (
           select from jsonb_each(limits) l
            where l.key not in ('requests_per_minute', 'tokens_per_minute', 'images_per_minute', 'concurrent',
                                'budget_tokens', 'budget_days')
               or jsonb_typeof(l.value) <> 'number' or l.value::text !~ '^[0-9]{1,15}$')
       and (limits ? 'budget_tokens') = (limits ? 'budget_days')
       and coalesce((limits ->> 'budget_days')::bigint between 1 and 366, true)
$$;

alter table api_keys add column limits jsonb not null default '{}' constraint limits_are_whole check (limits_whole(limits));
alter table tenants add column limits jsonb not null default '{}' constraint limits_are_whole check (limits_whole(limits));

-- Apart from api_keys: a key's use is no change of the key, so no cache is dropped and the audit chain stays short.
create table key_uses (
    key_id       text primary key references api_keys (id) on delete cascade,
    last_used_at timestamptz not null
);

-- What was taken in the current period of a measure. An orchestrator takes some at once and gives it out itself.
create table quotas (
    owner   text not null,
    measure text not null check (measure in ('requests', 'tokens', 'images', 'budget')),
    period  bigint not null,
    used    bigint not null check (used >= 0),
    primary key (owner, measure)
);

-- Take `wanted` of what is left of `most`, or less, in the period of `seconds` that is now. One statement, so two who
-- ask at once never get more than there is.
create function take_quota(of_owner text, of_measure text, seconds bigint, wanted bigint, most bigint)
returns table (granted bigint, used_before bigint, ends_in double precision) language plpgsql as $$
declare
    clock double precision := extract(epoch from clock_timestamp());
    now_period bigint := floor(clock / seconds);
    row_now quotas;
begin
    insert into quotas (owner, measure, period, used) values (of_owner, of_measure, now_period, 0)
        on conflict (owner, measure) do nothing;
    select * into row_now from quotas where owner = of_owner and measure = of_measure for update;
    if row_now.period <> now_period then
        row_now.used := 0;
    end if;
    granted := greatest(0, least(wanted, most - row_now.used));
    used_before := row_now.used;
    ends_in := (now_period + 1) * seconds - clock;
    update quotas set period = now_period, used = row_now.used + granted
     where owner = of_owner and measure = of_measure;
    return next;
end $$;

-- What an orchestrator took and did not need, if the period is still the same.
create function return_quota(of_owner text, of_measure text, seconds bigint, amount bigint) returns void
language sql as $$
    update quotas set used = greatest(0, used - amount)
     where owner = of_owner and measure = of_measure
       and period = floor(extract(epoch from clock_timestamp()) / seconds)
$$;
