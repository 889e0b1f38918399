"""Clients of language models, and the rule-based writer that needs none."""
