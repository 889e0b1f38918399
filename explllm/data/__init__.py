"""Readers of each data set, drawn faces, transforms, the mixture of conversations, and Lightning data modules."""
