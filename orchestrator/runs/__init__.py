"""The record of every request, its sealed contents, and the judge that begins, proves and settles it.

Others use `call`, `caller`, `judge.Judge`, `record.Run` and `contents.Vault`.
"""
