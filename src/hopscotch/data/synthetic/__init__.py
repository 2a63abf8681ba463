"""Synthesise a corpus of invented words."""
