"""The relayed request: bytes in, bytes out, judged and metered as they pass.

Start at `exchange`. Others use `body`, `costs`, `usage`, `usage_stream` and `selfies`.
"""
