"""Apparatus that tests share: programs and peers that do exactly as they are told."""
