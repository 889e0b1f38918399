"""Readers of the data sets: from a folder as its publisher ships it to a manifest."""
