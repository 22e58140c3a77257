"""Torch-free words used by two phases or more: types, errors, config, artifacts, provenance, metrics."""
