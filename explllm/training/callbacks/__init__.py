"""Lightning callbacks: live accuracy, the run folder, the gallery of explained faces, and the asynchronous judge.

`explllm.training` exports them.
"""

__all__: list[str] = []
