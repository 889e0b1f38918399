"""Chains of thought: parsing, reading claims from text, grounding, checks, and the rule-based writer.

How text becomes claims about action units, and how claims are grounded::

    sentence   "The left brow is slightly raised."
       |       tagging      words and phrases -> tags, using lexicon and movements; negation and scope
    tags       side:left  part:brow  copula  grade:slightly  action:raise
       |       binding      each movement -> the parts of the face it belongs to
    part       brow <- raise
       |       claims       part + movement + side + grade -> one claim per unit
    claim      Left Brow Raise, present, intensity 0.05 to 0.25
       |       grounding    claims against 24 measured intensities
    grounding  precision, recall, side errors, unsupported and missing units

`chain_of_thought` splits a text into its three sections, and `verdict` decides which expression a text names. `checks`
finds the problems of one text, `quality` summarizes a table of texts, `records` reads such tables, and `rule_writer`
writes chains of thought without a language model. `instructions` writes and checks the texts that FEALLM trains on.
"""

from explllm.explanations.chain_of_thought import MAX_WORDS, ChainOfThought
from explllm.explanations.claims import Claim, claims
from explllm.explanations.grounding import Grounding, ground
from explllm.explanations.rule_writer import RuleWriter
from explllm.explanations.verdict import verdict

__all__ = ["MAX_WORDS", "ChainOfThought", "Claim", "Grounding", "RuleWriter", "claims", "ground", "verdict"]
