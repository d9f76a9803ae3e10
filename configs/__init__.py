"""Recipes: each module's `get_config()` returns an `ml_collections.ConfigDict`.

Keys that it leaves out have the defaults of docs/configuration.md.
"""
