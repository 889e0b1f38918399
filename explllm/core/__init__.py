"""Domain types: expressions, action units, FACS, the manifest, errors, and atomic files.

Nothing here imports torch, and only the manifest imports pandas. The names below are imported on first use, which keeps
``explllm --help`` fast.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
