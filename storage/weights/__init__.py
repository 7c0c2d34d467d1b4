"""Weights of networks: where a file is, where it comes from, and what its bytes hash to. Loading is its user's."""
