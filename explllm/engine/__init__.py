"""The Exp-CoT Engine (paper, Section III-B): chains of thought from measured action units.

Img2AU (`img2au`) takes the action units from a manifest. `explain_face` runs the other five processes for one face:
AU2Des (`au2des`), Des2Exp (`des2exp`), Result Verification (`verification`), Feedback Reflection (`reflection`) and
Format Refinement (`refinement`).
`build_with_model` uses a language model to write texts for the faces of a manifest, and `build_offline` uses rules. The
texts are chains of thought or instruction texts for FEALLM (`instructions`). `baseline` asks a multimodal model about
the images instead (Table III).
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
