-- What of a budget was spent stands by days, so that another length of its period, there and back, forgets nothing; and
-- which moves of a label were rollbacks, so that the next one goes on back.

create table budget_days (
    owner text not null,
    day   bigint not null,
    used  bigint not null,
    primary key (owner, day)
);

-- The row of `quotas` stays for its lock. What it counts is of the period that the owner's budget has now.
insert into budget_days (owner, day, used)
select q.owner, floor(extract(epoch from now()) / 86400), q.used
  from quotas q
  join (select 'key:' || id as owner, limits from api_keys union all select 'tenant:' || id, limits from tenants) l
    on l.owner = q.owner
 where q.measure = 'budget' and l.limits ? 'budget_days'
   and q.period = floor(extract(epoch from now()) / (86400 * (l.limits ->> 'budget_days')::bigint));

-- Of all days of a period, today's among them. Called by who holds the lock.
create function budget_spent(of_owner text, first_day bigint) returns bigint language sql as $$
    select greatest(0, coalesce(sum(used), 0))::bigint from budget_days where owner = of_owner and day >= first_day
$$;

create or replace function take_quota(of_owner text, of_measure text, seconds bigint, wanted bigint, most bigint)
returns table (granted bigint, used_before bigint, ends_in double precision) language plpgsql as $$
declare
    clock double precision := extract(epoch from clock_timestamp());
    now_period bigint := floor(clock / seconds);
    today bigint := floor(clock / 86400);
    row_now quotas;
begin
    insert into quotas (owner, measure, period, used) values (of_owner, of_measure, now_period, 0)
        on conflict (owner, measure) do nothing;
    select * into row_now from quotas where owner = of_owner and measure = of_measure for update;
    if of_measure = 'budget' then
        row_now.used := budget_spent(of_owner, now_period * seconds / 86400);
    elsif row_now.period <> now_period then
        row_now.used := 0;
    end if;
    granted := greatest(0, least(wanted, most - row_now.used));
    used_before := row_now.used;
    ends_in := (now_period + 1) * seconds - clock;
    update quotas set period = now_period, used = row_now.used + granted
     where owner = of_owner and measure = of_measure;
    if of_measure = 'budget' then
        insert into budget_days as d (owner, day, used) values (of_owner, today, granted)
            on conflict (owner, day) do update set used = d.used + excluded.used;
        delete from budget_days where owner = of_owner and day < today - 366;
    end if;
    return next;
end $$;

create or replace function return_quota(of_owner text, of_measure text, seconds bigint, amount bigint) returns void
language plpgsql as $$
declare
    clock double precision := extract(epoch from clock_timestamp());
begin
    update quotas set used = greatest(0, used - amount)
     where owner = of_owner and measure = of_measure and period = floor(clock / seconds);
    if found and of_measure = 'budget' then  -- it may have been taken on another day of the period: their sum counts
        insert into budget_days as d (owner, day, used) values (of_owner, floor(clock / 86400), -amount)
            on conflict (owner, day) do update set used = d.used + excluded.used;
    end if;
end $$;

select keep_private('budget_days', 'budget_spent', 'take_quota', 'return_quota');

alter table label_moves add column rollback boolean not null default false;
alter table label_moves disable trigger user;
update label_moves set rollback = true where note = 'rollback';
alter table label_moves enable trigger user;

create or replace function record_label_move() returns trigger language plpgsql as $$
begin
    insert into label_moves (tenant, recipe, name, version, canaries, author, note, rollback)
    select l.tenant, l.recipe, l.name, case when tg_op = 'DELETE' then null else l.version end,
           l.canaries, l.author, l.note,
           coalesce(current_setting('soundstage.roll_back', true), '') = l.recipe || '/' || l.name
      from (select (coalesce(new, old)).*) l;
    return null;
end $$;
