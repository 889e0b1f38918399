"""Domain types (expressions, action units, FACS, the manifest, errors) and helpers for files, downloads and progress.

Nothing here imports torch, and only the modules for manifests and reliability import pandas. The package's names are
imported on first use, which keeps ``explllm --help`` fast.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
