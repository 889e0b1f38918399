"""Chains of thought: parsing, reading claims from text, grounding, checks and the rule-based writer."""
