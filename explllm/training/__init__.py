"""Training with Lightning: LightningModules, optimizer, checkpoints and callbacks.

`ExpLLMTask` trains an ExpLLM and `ActionUnitTask` an action unit regressor; both work with the data modules of
`explllm.data` and a plain `lightning.pytorch.Trainer`. The callbacks write the run folder (`RunFolder`), report
accuracy during training (`LiveAccuracy`), and judge or show generated explanations (`AsyncJudge`, `Gallery`). `bench`
runs trained models on FEABench. The exported names are imported on first use, because importing Lightning takes
seconds.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
