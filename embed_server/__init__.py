"""Terrakin's local HTTP server and the ``terrakin`` command. The interface is docs/api.md."""
