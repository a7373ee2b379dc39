"""What is allowed: a pure decision over texts, the floor in code, the lists of the operator.

Others use `decide`, `texts`, `guard.Guard`, `store.Policies` and the floor's names; of HTTP only the
routes know.
"""
