-- The registry whole: tenants over global defaults, canaries, protected labels, pinned includes, policies, runs, and a
-- hash chain over every change. `tenant` is null where a row is everyone's. What must hold, holds for the owner too.

alter table tenants add column max_tier smallint not null default 1 check (max_tier between 0 and 2);
alter table tenants add column store_contents boolean not null default false;
alter table tenants add column contents_days integer not null default 30 check (contents_days between 1 and 3650);

create function forbid(what text) returns void language plpgsql as $$
begin
    raise exception '%', what using errcode = 'restrict_violation';
end $$;

-- -- policies: versions that never change; one row for each tenant says which is in force ------------------------------

create table policies (
    tenant     text references tenants (id),
    version    integer not null check (version > 0),
    document   jsonb not null check (jsonb_typeof(document) = 'object'),
    author     text not null,
    note       text not null default '',
    sha256     text not null check (sha256 ~ '^[0-9a-f]{64}$'),
    created_at timestamptz not null default now(),
    unique nulls not distinct (tenant, version),
    unique nulls not distinct (tenant, sha256)
);

create table policies_in_force (
    tenant     text references tenants (id),
    version    integer not null,
    revision   bigint not null default 1,
    updated_at timestamptz not null default now(),
    unique nulls not distinct (tenant)
);

create function policy_exists() returns trigger language plpgsql as $$
begin
    if not exists (select from policies p where p.tenant is not distinct from new.tenant and p.version = new.version) then
        perform forbid(format('policy version %s does not exist', new.version));
    end if;
    return new;
end $$;

create trigger policy_exists before insert or update on policies_in_force
    for each row execute function policy_exists();
create trigger immutable before update or delete on policies for each row execute function refuse_change();
create trigger immutable_all before truncate on policies for each statement execute function refuse_change();

-- -- templates and releases -------------------------------------------------------------------------------------------

alter table template_versions add column tenant text references tenants (id);
alter table template_versions add column author text not null default '';
alter table template_versions add column note text not null default '';
alter table template_versions drop constraint template_versions_template_sha256_key;
alter table template_versions add constraint template_content unique nulls not distinct (tenant, template, sha256);

-- An include is pinned to one version; its hash takes part in the hash of what includes it.
create table template_includes (
    template         text not null,
    version          integer not null,
    included         text not null,
    included_version integer not null,
    primary key (template, version, included),
    foreign key (template, version) references template_versions (template, version),
    foreign key (included, included_version) references template_versions (template, version),
    check (included <> template)
);

alter table releases add column tenant text references tenants (id);
alter table releases add column tier smallint not null default 1 check (tier between 0 and 2);
alter table releases add column control_tokens text not null default 'refuse'
    check (control_tokens in ('refuse', 'neutralise'));
alter table releases add column max_output integer not null default 200000 check (max_output between 1 and 200000);
alter table releases add column policy_version integer;
alter table releases drop constraint releases_recipe_sha256_key;
alter table releases add constraint release_content unique nulls not distinct (tenant, recipe, sha256);

create function release_policy_exists() returns trigger language plpgsql as $$
begin
    if new.policy_version is not null and not exists (
        select from policies p where p.tenant is null and p.version = new.policy_version) then
        perform forbid(format('policy version %s does not exist', new.policy_version));
    end if;
    return new;
end $$;

create trigger policy_exists before insert on releases for each row execute function release_policy_exists();

-- What a release must render to, for variables that were written down with it.
create table golden_renders (
    recipe    text not null,
    version   integer not null,
    position  integer not null check (position >= 0),
    variables jsonb not null check (jsonb_typeof(variables) = 'object'),
    history   jsonb not null default '[]' check (jsonb_typeof(history) = 'array'),
    messages  jsonb not null check (jsonb_typeof(messages) = 'array'),
    primary key (recipe, version, position),
    foreign key (recipe, version) references releases (recipe, version)
);

create trigger immutable before update or delete on template_includes for each row execute function refuse_change();
create trigger immutable before update or delete on golden_renders for each row execute function refuse_change();
create trigger immutable_all before truncate on template_includes for each statement execute function refuse_change();
create trigger immutable_all before truncate on golden_renders for each statement execute function refuse_change();

-- A release is one transaction: nothing joins it later.
create function release_is_open() returns trigger language plpgsql as $$
begin
    if not exists (select from releases r where r.recipe = new.recipe and r.version = new.version
                                            and r.xmin = pg_current_xact_id()::xid) then
        perform forbid(format('the release %s@%s is closed', new.recipe, new.version));
    end if;
    return new;
end $$;

create trigger atomic before insert on release_messages for each row execute function release_is_open();
create trigger atomic before insert on golden_renders for each row execute function release_is_open();

create function template_is_open() returns trigger language plpgsql as $$
begin
    if not exists (select from template_versions t where t.template = new.template and t.version = new.version
                                                     and t.xmin = pg_current_xact_id()::xid) then
        perform forbid(format('the template %s@%s is closed', new.template, new.version));
    end if;
    return new;
end $$;

create trigger atomic before insert on template_includes for each row execute function template_is_open();

-- A tenant's release may use everyone's templates and its own, everyone's release only everyone's.
create function template_is_visible() returns trigger language plpgsql as $$
declare
    owner text; used text;
begin
    if new.template is null then return new; end if;
    select tenant into owner from releases where recipe = new.recipe and version = new.version;
    select tenant into used from template_versions where template = new.template and version = new.template_version;
    if used is not null and used is distinct from owner then
        perform forbid(format('the template %s belongs to another tenant', new.template));
    end if;
    return new;
end $$;

create trigger visible before insert on release_messages for each row execute function template_is_visible();

create function include_is_visible() returns trigger language plpgsql as $$
declare
    owner text; used text;
begin
    select tenant into owner from template_versions where template = new.template and version = new.version;
    select tenant into used from template_versions where template = new.included and version = new.included_version;
    if used is not null and used is distinct from owner then
        perform forbid(format('the template %s belongs to another tenant', new.included));
    end if;
    return new;
end $$;

create trigger visible before insert on template_includes for each row execute function include_is_visible();

-- -- labels -----------------------------------------------------------------------------------------------------------
-- A label names one release, and while a canary runs a second one for some percent of the keys or sessions.

alter table labels add column tenant text references tenants (id);
alter table labels add column canary_version integer;
alter table labels add column canary_percent smallint check (canary_percent between 1 and 99);
alter table labels add column protected boolean not null default false;
alter table labels add column revision bigint not null default 1;
alter table labels add column author text not null default '';
alter table labels add column note text not null default '';
alter table labels add constraint canary_whole check ((canary_version is null) = (canary_percent is null));
alter table labels add constraint canary_differs check (canary_version <> version);
alter table labels add foreign key (recipe, canary_version) references releases (recipe, version);
alter table labels drop constraint labels_pkey;
alter table labels add constraint one_label unique nulls not distinct (tenant, recipe, name);

create function label_may_move() returns trigger language plpgsql as $$
declare
    foreign_release boolean;
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
    select exists (select from releases r where r.recipe = new.recipe and r.version in (new.version, new.canary_version)
                                            and r.tenant is not null and r.tenant is distinct from new.tenant)
      into foreign_release;
    if foreign_release then
        perform forbid(format('the release belongs to another tenant than the label %s', new.name));
    end if;
    return new;
end $$;

create trigger may_move before insert or update or delete on labels for each row execute function label_may_move();
create trigger no_truncate before truncate on labels for each statement execute function refuse_change();

-- Every place a label ever had: a rollback is one more row.
create table label_moves (
    id             bigint generated always as identity primary key,
    tenant         text,
    recipe         text not null,
    name           text not null,
    version        integer,
    canary_version integer,
    canary_percent smallint,
    author         text not null,
    note           text not null,
    moved_at       timestamptz not null default clock_timestamp()
);

create index label_moves_label on label_moves (recipe, name, id);

create function record_label_move() returns trigger language plpgsql as $$
begin
    insert into label_moves (tenant, recipe, name, version, canary_version, canary_percent, author, note)
    select l.tenant, l.recipe, l.name, case when tg_op = 'DELETE' then null else l.version end,
           l.canary_version, l.canary_percent, l.author, l.note
      from (select (coalesce(new, old)).*) l;
    return null;
end $$;

create trigger recorded after insert or update or delete on labels for each row execute function record_label_move();

insert into label_moves (recipe, name, version, author, note) select recipe, name, version, '', '' from labels;

create trigger immutable before update or delete on label_moves for each row execute function refuse_change();
create trigger immutable_all before truncate on label_moves for each statement execute function refuse_change();

-- -- the audit chain: each entry's hash covers the one before ---------------------------------------------------------

create table audit (
    id     bigint primary key,
    at     timestamptz not null,
    actor  text not null,
    action text not null,
    object text not null,
    detail text not null,
    prev   text not null check (prev ~ '^[0-9a-f]{64}$'),
    sha256 text not null unique check (sha256 ~ '^[0-9a-f]{64}$')
);

create table audit_head (
    one    boolean primary key default true check (one),
    id     bigint not null,
    sha256 text not null
);

insert into audit_head (id, sha256) values (0, repeat('0', 64));

create function audit_chain() returns trigger language plpgsql as $$
declare
    head audit_head;
begin
    select * into head from audit_head for update;
    new.id := head.id + 1;
    new.prev := head.sha256;
    new.at := clock_timestamp();
    new.sha256 := encode(sha256(convert_to(concat_ws(E'\x1f', new.prev, new.id,
        to_char(new.at at time zone 'utc', 'YYYY-MM-DD"T"HH24:MI:SS.US'),
        new.actor, new.action, new.object, new.detail), 'utf8')), 'hex');
    update audit_head set id = new.id, sha256 = new.sha256;
    return new;
end $$;

create trigger chained before insert on audit for each row execute function audit_chain();
create trigger immutable before update or delete on audit for each row execute function refuse_change();
create trigger immutable_all before truncate on audit for each statement execute function refuse_change();

-- The head moves with the chain only.
create function head_follows() returns trigger language plpgsql as $$
begin
    if tg_op <> 'UPDATE' or pg_trigger_depth() < 2 then
        perform forbid('the head of the audit chain follows its entries');
    end if;
    return new;
end $$;

create trigger follows before insert or update or delete on audit_head for each row execute function head_follows();
create trigger no_truncate before truncate on audit_head for each statement execute function refuse_change();

-- argument 1: the columns that name the row; secrets and bodies are kept by hash only.
create function record_change() returns trigger language plpgsql as $$
declare
    row_data jsonb := to_jsonb(coalesce(new, old));
    name text;
begin
    select string_agg(coalesce(row_data ->> part, '*'), '/' order by at) into name
      from unnest(string_to_array(tg_argv[0], ',')) with ordinality as given(part, at);
    row_data := row_data - 'body' - 'document' - 'variables' - 'messages' - 'history' - 'sampling';
    if tg_table_name <> 'releases' and tg_table_name <> 'template_versions' and tg_table_name <> 'policies' then
        row_data := row_data - 'sha256';
    end if;
    insert into audit (actor, action, object, detail)
    values (coalesce(nullif(current_setting('soundstage.actor', true), ''), 'database:' || current_user),
            lower(tg_op), tg_table_name || ':' || name, row_data::text);
    return null;
end $$;

create trigger audited after insert or update or delete on tenants
    for each row execute function record_change('id');
create trigger audited after insert or update or delete on api_keys
    for each row execute function record_change('id');
create trigger audited after insert or update or delete on template_versions
    for each row execute function record_change('tenant,template,version');
create trigger audited after insert or update or delete on releases
    for each row execute function record_change('tenant,recipe,version');
create trigger audited after insert or update or delete on labels
    for each row execute function record_change('tenant,recipe,name');
create trigger audited after insert or update or delete on policies
    for each row execute function record_change('tenant,version');
create trigger audited after insert or update or delete on policies_in_force
    for each row execute function record_change('tenant');

create trigger moves_epoch after insert or update or delete on policies_in_force
    for each statement execute function bump_epoch();

-- -- runs: what was sent and answered, by hash ------------------------------------------------------------------------

create table runs (
    id                   text primary key check (id ~ '^run_[0-9a-f]{24}$'),
    at                   timestamptz not null,
    tenant               text not null,
    key_id               text not null,
    request_id           text not null,
    route                text not null,
    recipe               text,
    version              integer,
    label                text,
    release_sha256       text,
    policy               text not null,
    floor                text not null,
    tier                 smallint not null,
    decision             text not null check (decision in ('allow', 'soft', 'refuse')),
    category             text,
    constraints_added    text,
    model                text,
    worker               text,
    sampling             jsonb,
    seed                 bigint,
    variables_sha256     text,
    messages_sha256      text,
    proof                text not null check (proof in ('verified', 'unverified', 'mismatch', 'none')),
    prompt_tokens_sha256 text,
    output_sha256        text,
    answer_sha256        text,
    status               smallint not null,
    milliseconds         real not null
);

create index runs_at on runs (at);
create index runs_tenant on runs (tenant, at);

create trigger immutable before update or delete on runs for each row execute function refuse_change();
create trigger immutable_all before truncate on runs for each statement execute function refuse_change();

-- Only where the tenant opted in: sealed (AES-256-GCM, bound to the run's id), with an end, erasable.
create table run_contents (
    run        text primary key,
    tenant     text not null references tenants (id),
    sealed     bytea not null,
    expires_at timestamptz not null
);

create index run_contents_end on run_contents (expires_at);

create function contents_wanted() returns trigger language plpgsql as $$
begin
    if not exists (select from tenants where id = new.tenant and store_contents) then
        perform forbid(format('the tenant %s keeps no contents', new.tenant));
    end if;
    return new;
end $$;

create trigger wanted before insert or update on run_contents for each row execute function contents_wanted();
