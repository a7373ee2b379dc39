"""A worker as an openai client: who is asked, in which API's words, and how its answer reads.

Others use `client.Engines`, `chat_api` and `answer`.
"""
