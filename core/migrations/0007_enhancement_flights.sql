-- Enhancements that are being made now: of equal requests at several orchestrators one makes it, the others wait.
-- Nothing here matters after a crash of the database, so it is not logged.

create unlogged table enhancement_flights (
    key        text primary key check (key ~ '^[0-9a-f]{64}$'),
    held_by    text not null,
    held_until timestamptz not null
);
