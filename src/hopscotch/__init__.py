"""Train audio models that learn what to skip, and see what they skipped."""

__version__ = "0.1.0"
