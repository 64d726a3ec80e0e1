"""A place or examples, and the places that are like them."""

from embeddings.search.fused import Weighted
from embeddings.search.query import MAX_K, SearchQuery
from embeddings.search.searcher import LEAST_OF_EACH, Searcher, SearchResult

__all__ = ["LEAST_OF_EACH", "MAX_K", "SearchQuery", "SearchResult", "Searcher", "Weighted"]
