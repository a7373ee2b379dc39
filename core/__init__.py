"""What several services keep in common: wire types, errors, the service shell, the relay, the database."""
