"""The domain in plain Python: expressions, action units, chains of thought, the manifest, and errors."""
