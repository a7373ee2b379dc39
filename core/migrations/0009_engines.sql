-- Servers that an admin registered by URL, workers that an admin drains, and names that a tenant gives to models.

-- `wanted` is what the admin said: url, kind, abilities, models, aliases, capacity, roles.
create table engines (
    id         text primary key check (id ~ '^[a-z0-9][a-z0-9_.-]{0,62}$'),
    wanted     jsonb not null check (jsonb_typeof(wanted) = 'object' and wanted ? 'url' and wanted ? 'kind'),
    created_at timestamptz not null default now()
);

-- Apart, because changes of engines are in the audit chain and a key must not be, sealed or not.
create table engine_keys (
    engine text primary key references engines (id) on delete cascade,
    sealed bytea not null
);

create trigger audited after insert or update or delete on engines
    for each row execute function record_change('id');

create table drained_workers (
    worker text primary key check (length(worker) between 1 and 200),
    since  timestamptz not null default now()
);

create trigger audited after insert or update or delete on drained_workers
    for each row execute function record_change('worker');

-- A tenant of null is everyone; a tenant's own name goes before it.
create table model_aliases (
    tenant text references tenants (id),
    name   text not null check (name ~ '^[A-Za-z0-9_.:/@+-]{1,200}$'),
    model  text not null check (model ~ '^[A-Za-z0-9_.:/@+-]{1,200}$'),
    check (name <> model),
    constraint one_alias unique nulls not distinct (tenant, name)
);

create trigger moves_epoch after insert or update or delete on model_aliases
    for each statement execute function bump_epoch();
create trigger audited after insert or update or delete on model_aliases
    for each row execute function record_change('tenant,name');
