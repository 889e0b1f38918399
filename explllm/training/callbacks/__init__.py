"""Lightning callbacks: live accuracy, run folders, the gallery of explained faces, the judge, and temperature scaling.

`explllm.training` exports all of them except temperature scaling.
"""

__all__: list[str] = []
