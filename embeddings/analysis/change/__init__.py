"""Change between two dates, scored against its own noise: pure functions on arrays."""
