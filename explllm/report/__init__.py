"""Rendering of results: terminal tables, plots, annotated pictures and self-contained HTML pages.

`terminal` prints metrics and explained faces. `action_units` prints, writes and plots the metrics of action unit tests.
`plots` draws with matplotlib, and `page` renders HTML from the templates. `comparison` and `bench` write the reports of
run comparisons and of FEABench. `picture` annotates a photograph, and `json_lines` converts recognized faces to JSON.
`explained` holds the data of one explained face. Nothing here computes metrics or runs a model.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
