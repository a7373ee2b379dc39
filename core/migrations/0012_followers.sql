-- How many follow a run that was asked for as a stream: one whose last client left and does not come back is ended. An
-- orchestrator that dies takes nobody off: such a run goes on to its end.
alter table jobs add column followers integer not null default 0 check (followers >= 0);
