"""Metrics of recognition, explanations and action units, as functions and as `torchmetrics.Metric` classes.

`answers` maps a table of predictions to classes; `evaluation` computes all metrics of a test from these answers, using
`recognition`, `calibration` and `bootstrap` intervals. `chain_of_thought`, `grounding_gain` and `exp_cot_score` score
explanations; `judges` is the registry of judges; `scoring` evaluates tables of existing texts and labels.
`au_regression` and `facs` score action units. `comparison` compares the test results of several runs, using
`significance` tests; `fea_bench` scores a model's answers in FEABench. The exported names are imported on first use,
because most need torch.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
