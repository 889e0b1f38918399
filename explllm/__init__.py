"""Explained facial expression recognition.

Public names load on first use, which keeps ``import explllm`` and the command line fast.
"""

import lazy_loader

from explllm.core.cpu import configure_threads

__version__ = "0.1.0"

# This must precede any import of torch, which reads the settings.
configure_threads()

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
