-- A lease belongs to the key that took it. Of one that was taken before there were owners, to the next key that renews it.

alter table workers add column owner text;

-- Ids of servers that an admin or the settings name were never a worker's to take.
delete from workers where id like 'engine:%' or id like 'static:%';
