"""The Exp-CoT Engine (paper, Section III-B): from measured action units to checked chains of thought."""
