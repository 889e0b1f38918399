"""Chains of thought without any model: the rule-based writer, held to the same checks."""

from explllm.engine.face import EngineSettings, Face, Outcome, Status
from explllm.explanations.checks import pair_problems
from explllm.explanations.rule_writer import RuleWriter
from explllm.llm.request import digest

_TRIES = 50


class OfflineEngine:
    """Writes by rules from action units and label. Its texts are always marked ``offline``; they cost nothing."""

    def __init__(self, settings: EngineSettings) -> None:
        """Keep the limits of the checks."""
        self.settings = settings
        self.writer = RuleWriter()
        self._written: dict[str, str] = {}
        """Digests of texts and of the action units they are about: the texts themselves would fill the memory."""

    @property
    def name(self) -> str:
        """What stands in the column ``cot_source``."""
        return self.writer.name

    def explain(self, face: Face) -> Outcome:
        """Write a chain of thought that passes every local check and stands for no other face.

        Args:
            face: The face.

        Returns:
            The outcome; equal faces in an equal order give equal texts. Faces with different action units never share a
            text: another wording is drawn instead.
        """
        reason, units = "", digest(str(face.action_units))
        for seed in range(_TRIES):
            cot = self.writer.write(face.action_units, face.expression, seed=seed)
            problems = pair_problems(
                cot, face.action_units, face.expression, self.settings.max_words, self.settings.strong
            )
            if problems:
                reason = "; ".join(problems)
            elif self._written.setdefault(digest(cot.text), units) != units:
                reason = "another face has the same text"
            else:
                return Outcome(Status.ACCEPTED, cot.text, 0, "", 0.0)
        return Outcome(Status.FAILED, None, 0, f"no wording of {_TRIES} passes: {reason}", 0.0)
