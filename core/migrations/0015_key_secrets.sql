-- A key is who calls: its limits, budget, jobs, conversations and runs are its own. Its secrets come and go: to rotate a
-- key gives it another secret and nothing else. A secret that is over stays here, so that it never lets anyone in again.

create table key_secrets (
    sha256     bytea primary key check (length(sha256) = 32),
    key_id     text not null references api_keys (id) on delete cascade,
    created_at timestamptz not null default now(),
    expires_at timestamptz  -- null: as long as its key
);

create index key_secrets_of_key on key_secrets (key_id);

insert into key_secrets (sha256, key_id, created_at) select sha256, id, created_at from api_keys;

-- The newest secret stands in api_keys, too: who writes it there makes it the key's. Orchestrators of the version before
-- read and write it while an upgrade rolls.
create function keep_secret() returns trigger language plpgsql as $$
begin
    insert into key_secrets (sha256, key_id) values (new.sha256, new.id) on conflict (sha256) do nothing;
    return null;
end $$;

create trigger keeps_secret after insert or update of sha256 on api_keys for each row execute function keep_secret();
create trigger moves_epoch after insert or update or delete on key_secrets
    for each statement execute function bump_epoch();
create trigger audited after insert or update or delete on key_secrets
    for each row execute function record_change('key_id');

select keep_private('key_secrets', 'keep_secret');
