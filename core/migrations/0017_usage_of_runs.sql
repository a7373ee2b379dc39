-- What each run took of an engine, in tokens, and who counted: the engine, or an estimate where it did not say.

alter table runs add column input_tokens bigint;
alter table runs add column output_tokens bigint;
alter table runs add column usage_source text;
