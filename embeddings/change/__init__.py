"""Change between dates, from files to files: the maths is in ``embeddings.analysis.change``."""
