"""Probes of collections: labels become samples, models are kept in files, maps are predicted."""
