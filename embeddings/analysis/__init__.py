"""Probes of embeddings and how far to trust them: pure functions on arrays, no input or output."""
