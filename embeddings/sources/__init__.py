"""The outside world: imagery as pixels. The only place that may reach a network."""
