"""Rendering of results: terminal tables, plots, annotated pictures and self-contained HTML pages.

`terminal` prints metrics and explained faces, `action_units` does the same for action unit tests, `plots` draws with
matplotlib, `page` renders HTML from the templates, `bench` writes the report of FEABench, `picture` annotates a
photograph. `explained` holds the data of one explained face. Nothing here computes metrics or runs a model.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
