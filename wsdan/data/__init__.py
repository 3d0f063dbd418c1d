"""Datasets, transforms, the cache and data loaders."""
