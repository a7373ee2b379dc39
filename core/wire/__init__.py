"""Wire types that more than one service reads or writes. Pydantic and the standard library only."""
