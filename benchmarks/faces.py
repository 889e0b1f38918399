"""Speed and memory of `explllm faces` and `explllm aus`.

    python benchmarks/faces.py FOLDER --detector FILE --landmarker FILE

The images of FOLDER are taken in turn until there are 400, and 4,000; each run is a process of its own. The peak memory
of the two must not differ by more than 10%: only the table grows with the number of images. One row of a Markdown table
is printed for each run.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from itertools import cycle, islice
from pathlib import Path

from host import environment


def measure(name: str, folder: Path, images: list[Path], arguments: list[str]) -> tuple[float, float]:
    """Return seconds and peak memory in MiB of a run over these images."""
    manifest = folder / f"{name}.jsonl"
    # A link each, as a manifest holds an image once.
    for number, image in enumerate(images):
        link = folder / "images" / f"{number:06}{image.suffix}"
        if not link.exists():
            link.symlink_to(image.resolve())
    names = [f"images/{number:06}{image.suffix}" for number, image in enumerate(images)]
    manifest.write_text("".join(json.dumps({"image": image}) + "\n" for image in names))
    command = [sys.executable, "-m", "explllm", name, str(manifest), "-o", str(folder / f"{name}.csv")]
    start = time.monotonic()
    process = subprocess.Popen(
        [*command, "--overwrite", *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    _, status, used = os.wait4(process.pid, 0)
    if os.waitstatus_to_exitcode(status):
        raise SystemExit(f"{name} failed")
    return time.monotonic() - start, used.ru_maxrss / 1024


def main() -> None:
    """Measure both commands at both sizes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", metavar="FOLDER", help="images of faces")
    parser.add_argument("--detector", help="an SCRFD file: measures faces")
    parser.add_argument("--landmarker", help="MediaPipe's face_landmarker.task: measures aus")
    parser.add_argument("--sizes", type=int, nargs="+", default=[400, 4000])
    options = parser.parse_args()
    images = sorted(path for path in Path(options.folder).rglob("*") if path.suffix.lower() in (".jpg", ".png"))
    if not images:
        raise SystemExit(f"no images in {options.folder}")
    # Alike every time, but not class by class.
    random.Random(0).shuffle(images)
    print(f"\n{environment('onnxruntime', 'insightface', 'mediapipe')}\n")
    print("| command | images | seconds | images/s | peak memory, MiB |\n|---|---|---|---|---|", flush=True)
    for name, model in (("faces", options.detector), ("aus", options.landmarker)):
        if model is None:
            continue
        peaks = []
        for size in options.sizes:
            with tempfile.TemporaryDirectory() as folder:
                (Path(folder) / "images").mkdir()
                arguments = ["--detector" if name == "faces" else "--landmarker", model]
                seconds, peak = measure(name, Path(folder), list(islice(cycle(images), size)), arguments)
            peaks.append(peak)
            print(f"| {name} | {size:,} | {seconds:.1f} | {size / seconds:.1f} | {peak:.0f} |", flush=True)
        print(f"\n{name}: peak memory differs by {max(peaks) / min(peaks) - 1:.1%}\n", flush=True)


if __name__ == "__main__":
    main()
