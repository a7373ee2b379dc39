-- What the studio keeps: tenants and keys, workers and their leases, prompts and their releases.
-- What must hold, holds by constraint or trigger, for the owner of the tables too.

create table tenants (
    id         text primary key check (id ~ '^[a-z0-9][a-z0-9_-]{0,62}$'),
    created_at timestamptz not null default now()
);

insert into tenants (id) values ('default');

-- Only a hash of a key is stored.
create table api_keys (
    id         text primary key,
    tenant     text not null references tenants (id),
    name       text not null check (length(name) between 1 and 200),
    sha256     bytea not null unique check (length(sha256) = 32),
    scopes     text[] not null check (scopes <@ array['chat', 'images', 'pipelines', 'admin', 'worker']),
    max_tier   smallint not null default 1 check (max_tier between 0 and 2),
    age_assured_at timestamptz,
    created_at timestamptz not null default now(),
    expires_at timestamptz,
    revoked_at timestamptz,
    constraint adult_tier_needs_age_assurance check (max_tier < 2 or age_assured_at is not null)
);

-- A worker holds its place here until lease_until; a heartbeat moves that on.
create table workers (
    id            text primary key,
    kind          text not null check (kind in ('chat', 'image', 'selfie')),
    url           text not null,
    announcement  jsonb not null,
    registered_at timestamptz not null default now(),
    lease_until   timestamptz not null
);

create index workers_lease on workers (lease_until);

create table templates (
    name       text primary key check (name ~ '^[a-z0-9][a-z0-9_./-]{0,126}$'),
    created_at timestamptz not null default now()
);

-- A version is a body and the JSON Schema of the variables it may read. It never changes.
create table template_versions (
    template   text not null references templates (name),
    version    integer not null check (version > 0),
    body       text not null check (length(body) between 1 and 65536),
    variables  jsonb not null check (jsonb_typeof(variables) = 'object'),
    sha256     text not null check (sha256 ~ '^[0-9a-f]{64}$'),
    created_at timestamptz not null default now(),
    primary key (template, version),
    unique (template, sha256)
);

create table recipes (
    name       text primary key check (name ~ '^[a-z0-9][a-z0-9_.-]{0,126}$'),
    created_at timestamptz not null default now()
);

-- A release is an atomic set: ordered messages, model, sampling. It never changes; labels point at it.
create table releases (
    recipe     text not null references recipes (name),
    version    integer not null check (version > 0),
    model      text not null,
    sampling   jsonb not null check (jsonb_typeof(sampling) = 'object'),
    variables  jsonb not null check (jsonb_typeof(variables) = 'object'),
    author     text not null default '',
    note       text not null default '',
    sha256     text not null check (sha256 ~ '^[0-9a-f]{64}$'),
    created_at timestamptz not null default now(),
    primary key (recipe, version),
    unique (recipe, sha256)
);

-- One template is one message. 'history' takes the caller's own messages and has no template.
create table release_messages (
    recipe           text not null,
    version          integer not null,
    position         integer not null check (position >= 0),
    role             text not null check (role in ('system', 'user', 'assistant', 'history', 'negative')),
    template         text,
    template_version integer,
    primary key (recipe, version, position),
    foreign key (recipe, version) references releases (recipe, version),
    foreign key (template, template_version) references template_versions (template, version),
    check ((role = 'history') = (template is null)),
    check ((template is null) = (template_version is null))
);

create table labels (
    recipe     text not null references recipes (name),
    name       text not null check (name ~ '^[a-z][a-z0-9_-]{0,62}$'),
    version    integer not null,
    updated_at timestamptz not null default now(),
    primary key (recipe, name),
    foreign key (recipe, version) references releases (recipe, version)
);

create function refuse_change() returns trigger language plpgsql as $$
begin
    raise exception 'a row of % never changes', tg_table_name using errcode = 'restrict_violation';
end $$;

create trigger immutable before update or delete on template_versions for each row execute function refuse_change();
create trigger immutable before update or delete on releases for each row execute function refuse_change();
create trigger immutable before update or delete on release_messages for each row execute function refuse_change();
create trigger immutable_all before truncate on template_versions for each statement execute function refuse_change();
create trigger immutable_all before truncate on releases for each statement execute function refuse_change();
create trigger immutable_all before truncate on release_messages for each statement execute function refuse_change();

-- One number that moves whenever prompts, labels or keys change: who caches them looks at it and listens for it.
create table epoch (
    one   boolean primary key default true check (one),
    value bigint not null
);

insert into epoch (value) values (1);

create function bump_epoch() returns trigger language plpgsql as $$
begin
    update epoch set value = value + 1;
    perform pg_notify('soundstage_epoch', '');
    return null;
end $$;

create trigger moves_epoch after insert or update or delete on labels for each statement execute function bump_epoch();
create trigger moves_epoch after insert or update or delete on releases for each statement execute function bump_epoch();
create trigger moves_epoch after insert or update or delete on api_keys for each statement execute function bump_epoch();
create trigger moves_epoch after insert or update or delete on tenants for each statement execute function bump_epoch();
