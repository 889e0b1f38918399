"""Lightning callbacks: live accuracy, run folders, the gallery of explained faces, the judge, and temperature scaling.

`explllm.training` exports all of them except temperature scaling and the handling of failed ranks.
"""

__all__: list[str] = []
