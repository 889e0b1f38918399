"""The Exp-CoT Engine (paper, Section III-B): chains of thought from measured action units.

Img2AU (`img2au`) takes the action units from a manifest. `explain_face` runs the other five processes for one face:
AU2Des (`au2des`), Des2Exp (`des2exp`), Result Verification (`verification`), Feedback Reflection (`reflection`) and
Format Refinement (`refinement`).
`build_with_model` and `build_offline` build the texts of a manifest, with a language model or by rules: chains of
thought, or the instruction texts for FEALLM (`instructions`). `baseline` asks a multimodal model about the images
instead (Table III).
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
