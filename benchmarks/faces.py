"""Speed and memory of `explllm faces` and `explllm aus`.

    python benchmarks/faces.py FOLDER --detector FILE --landmarker FILE     CPU seconds vs. the bare libraries
    python benchmarks/faces.py FOLDER --detector FILE --onnx FILE --rows 10000 400000     peak memory by rows

The first form processes the images of FOLDER with the detector and the landmarker as the commands do, and with
insightface and MediaPipe called directly on images that OpenCV has decoded. Rounds alternate, and medians of CPU
seconds are compared. The second form runs the commands on tables of the given numbers of rows, which repeat the images
with given boxes. Each run is a separate process. Peak memory must not grow by more than 10%.
"""

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from itertools import cycle, islice
from pathlib import Path

import cv2
from host import environment
from PIL import Image

ROUNDS = 5
BOX = (0.1, 0.1, 0.8, 0.8)
"""x, y, width and height of the given box, as shares of the image's width and height."""


def compare_cpu(name: str, ours: Callable[[], None], bare: Callable[[], None], images: int) -> None:
    """Print a row with both sides' CPU milliseconds per image (medians of alternating rounds) and their ratio."""
    seconds: dict[str, list[float]] = {"ours": [], "bare": []}
    for _ in range(ROUNDS + 1):
        for side, run in (("ours", ours), ("bare", bare)):
            start = time.process_time()
            run()
            seconds[side].append(time.process_time() - start)
    first, second = (1000 * statistics.median(times[1:]) / images for times in seconds.values())
    print(f"| {name} | {images} | {first:.1f} | {second:.1f} | {first / second:.2f} |", flush=True)


def compare_with_libraries(images: list[Path], detector: str | None, landmarker: str | None) -> None:
    """Print the CPU time of the commands whose model file is given, and of the bare libraries."""
    print("| work | images | explllm, CPU ms | library, CPU ms | ratio |\n|---|---|---|---|---|", flush=True)
    if detector is not None:
        from insightface.model_zoo.scrfd import SCRFD

        from explllm.faces.detection import DetectionJob, ImageRows
        from explllm.faces.onnx_session import open_session

        bare = SCRFD(model_file=detector, session=open_session(detector, threads=1))
        bare.prepare(0, input_size=(640, 640), det_thresh=0.5)
        items = [ImageRows(path.name, path, (0,), (None,)) for path in images]
        with DetectionJob(Path(detector), threads=1).open() as process:
            compare_cpu(
                "faces",
                lambda: [process([item]) for item in items] and None,
                lambda: [bare.detect(cv2.imread(str(path))) for path in images] and None,
                len(images),
            )
    if landmarker is not None:
        import mediapipe
        from mediapipe.tasks.python import BaseOptions, vision

        from explllm.faces.estimation import EstimationJob, FaceRow
        from explllm.faces.estimators import EstimatorSpec

        options = vision.FaceLandmarkerOptions(
            base_options=BaseOptions(model_asset_path=landmarker), output_face_blendshapes=True, num_faces=1
        )
        library = vision.FaceLandmarker.create_from_options(options)

        def detect(path: Path) -> None:
            pixels = cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)
            library.detect(mediapipe.Image(image_format=mediapipe.ImageFormat.SRGB, data=pixels))

        rows = [FaceRow(0, path.name, path, None) for path in images]
        with EstimationJob(EstimatorSpec("landmarker", Path(landmarker))).open() as process:
            compare_cpu(
                "aus",
                lambda: [process([row]) for row in rows] and None,
                lambda: [detect(path) for path in images] and None,
                len(images),
            )
        library.close()


def peak_memory(name: str, images: list[Path], rows: int, arguments: list[str]) -> tuple[float, float]:
    """Run a command on a table with the given number of rows; return the seconds and the peak memory in MiB."""
    with tempfile.TemporaryDirectory() as folder:
        manifest = Path(folder, "m.jsonl")
        sizes = {path: Image.open(path).size for path in images}
        with manifest.open("w") as file:
            for number, path in enumerate(islice(cycle(images), rows)):
                width, height = sizes[path]
                # The boxes of an image differ: a manifest contains each face only once.
                shift = number // len(images) * 1e-6
                box = [BOX[0] * width + shift, BOX[1] * height, BOX[2] * width, BOX[3] * height]
                file.write(json.dumps({"image": str(path.resolve()), "box": box}) + "\n")
        command = [sys.executable, "-m", "explllm", name, str(manifest), "-o", f"{folder}/out.parquet", *arguments]
        start = time.monotonic()
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        _, status, used = os.wait4(process.pid, 0)
    if os.waitstatus_to_exitcode(status):
        raise SystemExit(f"{name} failed")
    return time.monotonic() - start, used.ru_maxrss / 1024


def main() -> None:
    """Run the requested measurements."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", metavar="FOLDER", help="images")
    parser.add_argument("--detector", help="an SCRFD file: measures faces")
    parser.add_argument("--landmarker", help="MediaPipe's face_landmarker.task: measures aus")
    parser.add_argument("--onnx", help="an action unit regressor: measures the memory of aus")
    parser.add_argument(
        "--rows", type=int, nargs="+", help="measure the peak memory with tables of these numbers of rows"
    )
    parser.add_argument("--images", type=int, default=24, help="number of images (default: 24)")
    options = parser.parse_args()
    images = sorted(path for path in Path(options.folder).rglob("*") if path.suffix.lower() in (".jpg", ".png"))
    if not images:
        raise SystemExit(f"no images in {options.folder}")
    random.Random(0).shuffle(images)
    images = images[: options.images]
    print(f"\n{environment('onnxruntime', 'insightface', 'mediapipe')}\n")
    cv2.setNumThreads(1)
    if options.rows is None:
        compare_with_libraries(images, options.detector, options.landmarker)
        return
    print("| command | rows | seconds | rows/s | peak memory, MiB |\n|---|---|---|---|---|", flush=True)
    for name, option in (("faces", "detector"), ("aus", "onnx" if options.onnx else "landmarker")):
        model = getattr(options, option)
        if model is None:
            continue
        peaks = []
        for rows in options.rows:
            seconds, peak = peak_memory(name, images, rows, [f"--{option}", model])
            peaks.append(peak)
            print(f"| {name} | {rows:,} | {seconds:.1f} | {rows / seconds:.0f} | {peak:.0f} |", flush=True)
        print(f"\n{name}: peak memory grows by {peaks[-1] / peaks[0] - 1:.1%}\n", flush=True)


if __name__ == "__main__":
    main()
