-- Callers' texts stand sealed wherever they are kept. What the version before kept is read as it is, and goes when its
-- time is over; enhancements are looked up by other keys from now on.

alter table conversation_turns add column sealed bytea check (octet_length(sealed) <= 1000000);
alter table queue_jobs add column tenant text references tenants (id) on delete cascade;
create index queue_jobs_tenant on queue_jobs (tenant);
delete from enhancements;
