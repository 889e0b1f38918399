"""Concurrent users of the web page of `explllm app`: python benchmarks/app_users.py.

Each user has a separate session, uploads one picture after another, and reads each explanation to the end. Every
answer must show the user's own picture, its expression and its text. Prints counts, times and the memory over time.
"""

import argparse
import collections
import re
import sys
import tempfile
import threading
import time
from contextlib import closing
from pathlib import Path
from statistics import median

from gradio_client import Client, handle_file
from host import Memory, environment, explllm_process


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="a trained model; by default the one that comes with explllm")
    parser.add_argument("--users", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--faces", type=int, default=40, help="different faces (default: 40)")
    parser.add_argument("--max_new_tokens", type=int, default=160)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        return run(options, Path(folder))


def run(options: argparse.Namespace, folder: Path) -> int:
    """Compute the expected answers, start the page, and let the users ask."""
    from explllm.commands.serve import model_name
    from explllm.drawn_faces import draw_faces
    from explllm.models.known import shipped_model

    draw_faces(folder / "faces", train=0, val=0, test=options.faces, size=128)
    pictures = sorted((folder / "faces").rglob("*.png"))
    model = options.model or str(shipped_model())
    expected = expected_pages(model, model_name(model), options.max_new_tokens, pictures)
    counts: collections.Counter[str] = collections.Counter()
    times: list[float] = []

    def use(number: int, client: Client) -> None:
        picture = number
        while time.monotonic() < deadline:
            picture = (picture + options.users) % len(pictures)
            started = time.perf_counter()
            try:
                client.predict(handle_file(pictures[picture]), api_name="/look")
                html, _ = client.predict(None, model_name(model), "", api_name="/explain")
                right = comparable(html) == expected[picture]
                answer = "right answers" if right else "WRONG: the answer of another picture"
            except Exception as error:
                answer = f"WRONG: {type(error).__name__}: {error}"[:200]
            with lock:
                counts[answer] += 1
                times.append(time.perf_counter() - started)

    lock = threading.Lock()
    command = ["app", "--model", model, "--max_new_tokens", str(options.max_new_tokens)]
    with explllm_process(folder, *command) as (server, address):
        clients = [Client(address, verbose=False) for _ in range(options.users)]
        users = [threading.Thread(target=use, args=pair) for pair in enumerate(clients)]
        deadline = time.monotonic() + options.seconds
        with Memory(server.pid) as memory:
            for user in users:
                user.start()
            for user in users:
                user.join()
        alive = server.poll() is None
    print(environment("gradio"))
    for name, count in sorted(counts.items()):
        print(f"{count:8,}  {name}")
    print(f"{options.users} users, {options.seconds:.0f} s; seconds per answer: {median(times):.1f} (median)", end="")
    print(f", {max(times):.1f} (maximum)")
    print(memory)
    return int(set(counts) != {"right answers"} or not alive or not memory.flat)


def expected_pages(folder: str, name: str, tokens: int, pictures: list[Path]) -> list[str]:
    """Return what the page must show for each picture, computed without a server."""
    from explllm import ExpLLM
    from explllm.app.explainer import Explainer
    from explllm.app.page import Page, Services

    with closing(Explainer(ExpLLM.from_pretrained(folder), max_new_tokens=tokens)) as explainer:
        page, pages = Page(Services({name: explainer}, max_new_tokens=tokens)), []
        for path in pictures:
            photograph, _ = page.look(str(path))
            *_, [html] = page.explain(photograph, 0, [name])
            pages.append(comparable(html))
    return pages


def comparable(html: str) -> str:
    """Return HTML, picture included, without percentages: their last digit may depend on the batch size."""
    return re.sub(r"[\d.]+%", "", html)


if __name__ == "__main__":
    sys.exit(main())
