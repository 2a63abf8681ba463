"""Find, read, augment and batch clips."""
