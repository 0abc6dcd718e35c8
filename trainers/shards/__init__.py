"""Tar shards in the layout of img2dataset: writing, indexing, and training from them."""
