-- What was said of an answer besides its text, so that a job that comes again after a death is answered as it was then.

alter table conversation_turns add column told jsonb;
