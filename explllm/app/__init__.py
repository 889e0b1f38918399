"""The web page (`explllm app`) and the HTTP server (`explllm serve`).

`explainer` runs a model in a thread and batches faces that arrive at any time. `photographs` reads the faces of a
picture. `server` and `guard` are the HTTP server, `page`, `views` and `batch` the web page.
"""
