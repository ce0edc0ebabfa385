"""A trained network from any source: loaded, converted to a graph, run as the original."""
