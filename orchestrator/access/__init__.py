"""Who may ask, for how much, and under which names: keys, limits, quotas, aliases, tenants.

Others use `keys.Keys` and `Key`, `quotas.Quotas`, `limits`, `payments`, and `dependencies` in their routes.
"""
