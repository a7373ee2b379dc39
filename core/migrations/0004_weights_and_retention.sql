-- A label may go to several releases by weight; a run says which control tokens it set apart; old runs may be let go.

-- -- labels: `version` for most, and others for some percent each: {"5": 10, "6": 5} ----------------------------------

create function canaries_whole(canaries jsonb, main integer) returns boolean language sql immutable as $$
    select case
        when canaries is null then true
        when jsonb_typeof(canaries) <> 'object' or canaries = '{}' then false
        when exists (select from jsonb_each(canaries) c where c.key !~ '^[1-9][0-9]{0,8}$' or c.key = main::text
                                                             or c.value::text !~ '^[1-9][0-9]?$') then false
        else (select sum(c.value::integer) <= 99 from jsonb_each(canaries) c)
    end
$$;

alter table labels add column canaries jsonb;
alter table labels disable trigger user;
update labels set canaries = jsonb_build_object(canary_version::text, canary_percent) where canary_version is not null;
alter table labels enable trigger user;
alter table labels drop column canary_version, drop column canary_percent;
alter table labels add constraint canaries_whole check (canaries_whole(canaries, version));

create or replace function label_may_move() returns trigger language plpgsql as $$
declare
    named integer[];
begin
    -- Moving a protected label takes a transaction that says so by its name.
    if tg_op <> 'INSERT' and old.protected
       and coalesce(current_setting('soundstage.move_protected', true), '') <> old.recipe || '/' || old.name then
        perform forbid(format('the label %s of %s is protected', old.name, old.recipe));
    end if;
    if tg_op = 'DELETE' then return old; end if;
    if tg_op = 'UPDATE' then
        if (new.tenant, new.recipe, new.name) is distinct from (old.tenant, old.recipe, old.name) then
            perform forbid('a label keeps its name');
        end if;
        new.revision := old.revision + 1;
        new.updated_at := now();
    end if;
    if not canaries_whole(new.canaries, new.version) then return new; end if;  -- the constraint refuses it
    select array_agg(c.key::integer) into named from jsonb_each(coalesce(new.canaries, '{}')) c;
    if exists (select from unnest(named) v
                where not exists (select from releases r where r.recipe = new.recipe and r.version = v)) then
        raise exception 'a canary of the label % names no release', new.name using errcode = 'foreign_key_violation';
    end if;
    if exists (select from releases r where r.recipe = new.recipe and r.version = any(named || new.version)
                                        and r.tenant is not null and r.tenant is distinct from new.tenant) then
        perform forbid(format('the release belongs to another tenant than the label %s', new.name));
    end if;
    return new;
end $$;

alter table label_moves add column canaries jsonb;
alter table label_moves disable trigger user;
update label_moves set canaries = jsonb_build_object(canary_version::text, canary_percent)
 where canary_version is not null;
alter table label_moves enable trigger user;
alter table label_moves drop column canary_version, drop column canary_percent;

create or replace function record_label_move() returns trigger language plpgsql as $$
begin
    insert into label_moves (tenant, recipe, name, version, canaries, author, note)
    select l.tenant, l.recipe, l.name, case when tg_op = 'DELETE' then null else l.version end,
           l.canaries, l.author, l.note
      from (select (coalesce(new, old)).*) l;
    return null;
end $$;

-- -- runs -------------------------------------------------------------------------------------------------------------

-- Which of the model's control tokens were set apart in its texts; null: the common forms. A replay does the same.
alter table runs add column control_tokens jsonb;

-- A record never changes. It may be let go, old ones by a transaction that says that it does so.
create function run_may_end() returns trigger language plpgsql as $$
begin
    if tg_op = 'DELETE' and old.at < now() - interval '1 day'
       and coalesce(current_setting('soundstage.purge_runs', true), '') = 'yes' then
        return old;
    end if;
    perform forbid('a row of runs never changes, and ends only by its retention');
    return null;
end $$;

drop trigger immutable on runs;
create trigger immutable before update or delete on runs for each row execute function run_may_end();
