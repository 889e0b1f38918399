"""The web page (`explllm app`) and the HTTP server (`explllm serve`).

`explainer` runs a model in a thread and batches faces that arrive at any time. `photographs` reads the faces of a
picture. The HTTP server consists of `server` (routes), `protocol` (requests and answers), `guard` (limits), `errors`
and `remote`; the web page consists of `page`, `views` and `batch`.
"""
