-- Whose likeness may be used: the hash of a selfie, when its person consented, and whether they took that back.
-- The picture itself is kept nowhere. What was revoked stays revoked.

create table likenesses (
    id         text primary key check (id ~ '^lik_[0-9a-f]{24}$'),
    tenant     text not null references tenants (id),
    key_id     text not null,
    sha256     text not null check (sha256 ~ '^[0-9a-f]{64}$'),
    tier       smallint not null default 0 check (tier = 0), -- the subject is real: never higher, whatever the key
    consent_at timestamptz not null default now(),
    revoked_at timestamptz,
    unique (tenant, sha256)
);

create function likeness_only_ends() returns trigger language plpgsql as $$
begin
    if (new.id, new.tenant, new.key_id, new.sha256, new.tier, new.consent_at)
       is distinct from (old.id, old.tenant, old.key_id, old.sha256, old.tier, old.consent_at)
       or (old.revoked_at is not null and new.revoked_at is distinct from old.revoked_at) then
        perform forbid('of a likeness only its revocation can be added');
    end if;
    return new;
end $$;

create trigger only_ends before update on likenesses for each row execute function likeness_only_ends();
create trigger audited after insert or update or delete on likenesses
    for each row execute function record_change('tenant,id');
