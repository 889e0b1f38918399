"""Run commands of ``explllm`` on one of several ranks: python ranks.py '[["fit", "--config", ...], ...]'.

Each rank imports the libraries once, which takes longer than a tiny run. Prints one JSON line per command: its exit
code, and what it wrote to stdout and stderr.
"""

import contextlib
import io
import json
import sys

if __name__ == "__main__":
    from explllm.cli import main

    for command in json.loads(sys.argv[1]):
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            status = main(command)
        print(json.dumps([status, out.getvalue(), err.getvalue()]), flush=True)
