"""``python -m explllm`` runs the command ``explllm``."""

import sys

from explllm.cli import main

if __name__ == "__main__":
    sys.exit(main())
