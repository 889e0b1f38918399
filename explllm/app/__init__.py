"""The web page (`explllm app`) and the HTTP server (`explllm serve`).

`explainer` runs a model in a thread and batches faces as they arrive. `photographs` finds and preprocesses the
faces in a picture. The HTTP server consists of `server` (routes), `protocol` (requests and answers), `guard` (limits),
`errors` and `remote`; the web page consists of `page`, `views` and `batch`.
"""
