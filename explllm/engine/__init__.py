"""The Exp-CoT Engine (paper, Section III-B): chains of thought from measured action units.

`explain_face` runs the six processes for one face: Img2AU (`img2au`), AU2Des (`au2des`), Des2Exp (`des2exp`), Result
Verification (`verification`), Feedback Reflection (`reflection`) and Format Refinement (`refinement`).
`build_with_model` and `build_offline` process a manifest, with a model or by rules; `instructions` is another kind of
text that they can build, for FEALLM. `baseline` asks a multimodal model
about the images instead (Table III).
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
