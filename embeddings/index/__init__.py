"""Nearest neighbours over the vectors of a collection."""
