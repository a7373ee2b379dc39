"""Postgres, everywhere: an embedded one by default, yours with DATABASE_URL."""
