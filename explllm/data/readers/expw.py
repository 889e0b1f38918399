"""ExpW: ``label/label.lst`` and the original images, with several faces per image."""

from explllm.core.errors import ConfigError
from explllm.core.expressions import LABEL_SETS
from explllm.data.readers.parsing import box_of_corners, number, words
from explllm.data.readers.published import EXPW
from explllm.data.readers.source import Source

_FORM = "image_name face_id top left right bottom confidence label"
_LISTS = ("label/label.lst", "data/label/label.lst", "label.lst")
_IMAGES = ("image/origin", "data/image/origin", "origin", "image", "images")


def read_expw(
    source: Source, min_confidence: float = 60.0, draw: int | None = None, seed: int = 0, image_dir: str | None = None
) -> None:
    """Read ExpW's list, one face per line, with the publisher's boxes (top, left, right, bottom).

    ExpW has no splits; all rows become ``test``. The ExpLLM paper (Section IV-A) keeps faces with a confidence above 60
    and samples 3,000 of them. That sample was not published, so accuracy on another sample differs slightly. The paper
    also uses SCRFD's boxes instead of the publisher's.

    Args:
        source: The folder.
        min_confidence: Keep faces with a detection confidence above this percentage.
        draw: Number of faces to sample at random; by default all (paper: 3000).
        seed: Seed of the sample.
        image_dir: Image folder, relative to ROOT, if it does not have its usual name.
    """
    listing = source.first("list of ExpW", *_LISTS)
    candidates = (image_dir,) if image_dir else _IMAGES
    images = source.first("folder of images", *candidates).relative_to(source.root).as_posix()
    if not 0 <= min_confidence < 100:
        raise ConfigError(f"--min_confidence is {min_confidence:g}", remedy="Use at least 0 and below 100.")
    faces = 0
    for line, text in source.lines(listing):
        with source.row(listing, line):
            name, _, top, left, right, bottom, confidence, label = words(text, 8, _FORM)
            faces += 1
            if number(confidence, "confidence") <= min_confidence:
                source.left_out[f"faces with a confidence of at most {min_confidence:g}"] += 1
                continue
            corners = [number(edge, "pixel") for edge in (left, top, right, bottom)]
            expression = str(LABEL_SETS["expw"].parse(label))
            source.add(f"{images}/{name}", expression=expression, split="test", box=box_of_corners(*corners))
    source.compare(EXPW, faces=faces)
    if draw is not None:
        source.draw(draw, seed)
