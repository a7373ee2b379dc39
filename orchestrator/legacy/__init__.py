"""Older callers' paths: /chat, /enhance and their kin, and jobs from a Redis queue. Read this room last.

Nothing else imports it but `app`.
"""
