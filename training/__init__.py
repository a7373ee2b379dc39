"""The small models that ship: how they are made. No service imports it."""
