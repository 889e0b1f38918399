"""Read images of any kind as RGB."""

from __future__ import annotations

import glob
import os
import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from io import BytesIO, IOBase
from os import PathLike, fspath
from pathlib import Path
from typing import Any, TypeVar

import cv2
import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from explllm.core.errors import ImageError, MissingPathError

ImageSource = str | PathLike[str] | bytes | BytesIO | Image.Image | np.ndarray
"""An image: a path, the content of a file, a PIL image of any mode, or an array or tensor. Arrays are (H, W), (H, W, C)
or (C, H, W) with 1, 3 or 4 channels, uint8 or floats in [0, 1]."""

T = TypeVar("T")

IMAGE_SUFFIXES = frozenset({".bmp", ".gif", ".heic", ".heif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})
"""Suffixes of image files in lower case; upper-case suffixes match, too."""

TRUNCATED = "the image file is truncated"
"""Warning about a truncated JPEG file. The ``info`` of such an image has the key ``truncated``."""

_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "JPEG2000", "AVIF", "HEIF")
"""Pillow's names of the formats of photographs and data sets. All others are rejected, because Pillow would run
the program in an EPS file with Ghostscript, without a time limit."""

_MAX_GRAY_ROWS = 0.25
"""Maximum share of missing rows in a truncated JPEG file; a file with more counts as unreadable."""

_ORIENTATION = 0x0112
_TURNS: dict[int, Any] = {
    2: lambda pixels: cv2.flip(pixels, 1),
    3: lambda pixels: cv2.rotate(pixels, cv2.ROTATE_180),
    4: lambda pixels: cv2.flip(pixels, 0),
    5: cv2.transpose,
    6: lambda pixels: cv2.rotate(pixels, cv2.ROTATE_90_CLOCKWISE),
    7: lambda pixels: cv2.rotate(cv2.transpose(pixels), cv2.ROTATE_180),
    8: lambda pixels: cv2.rotate(pixels, cv2.ROTATE_90_COUNTERCLOCKWISE),
}
"""Functions that make pixels upright, by EXIF orientation."""


def load_image(source: ImageSource, upright: bool = True) -> Image.Image:
    """Read an image as RGB.

    Transparent pixels are composited over white. 16-bit gray is scaled to 8 bits. Floating-point and 32-bit integer
    pixels are read if their range is clear: 0 to 1 (only floats), 0 to 255, or 0 to 65,535 (only integers). A JPEG file
    that is missing at most a quarter of its rows is read with a warning.

    Args:
        source: The image.
        upright: Rotate the image according to its EXIF orientation.

    Returns:
        The image in mode RGB.

    Raises:
        MissingPathError: If the path does not exist.
        ImageError: If the source is not an image, is damaged, has too many pixels (`allow_pixels`), or is an
            unsupported array.
    """
    if isinstance(source, Image.Image):
        return _to_rgb(source, upright)
    if isinstance(source, np.ndarray) or hasattr(source, "cpu"):
        return _to_rgb(_from_array(source), upright)
    if not isinstance(source, str | PathLike | bytes | BytesIO):
        raise ImageError(f"a {type(source).__name__} is not an image", remedy="Pass a path, a PIL image or an array.")
    file = _file(source)
    where = fspath(source) if isinstance(source, str | PathLike) else None
    try:
        with open_image(file) as image:
            return _to_rgb(image, upright)
    except ImageError as error:
        raise ImageError(error.found, where=where, remedy=error.remedy) from error
    except Image.DecompressionBombError as error:
        raise _too_large(error, where) from error
    except Exception as error:  # Pillow's readers raise many types: OSError, EOFError, struct.error, ...
        repaired = _read_truncated(file, upright) if "truncated" in str(error) else None
        if repaired is not None:
            warnings.warn(f"{TRUNCATED}{f' [{where}]' if where else ''}", stacklevel=2)
            return repaired
        unknown = isinstance(error, UnidentifiedImageError) or not str(error)
        reason = "not an image, or in an unknown format" if unknown else str(error)
        raise ImageError(f"unreadable image: {reason}", where=where, remedy="Replace the file or remove it.") from error


@dataclass(frozen=True)
class ReducedImage:
    """An upright image that may have been decoded at a fraction of its size."""

    pixels: np.ndarray
    """uint8 (h, w, 3), RGB."""
    size: tuple[int, int]
    """Width and height of the whole image in pixels."""
    truncated: bool = False
    """Whether the file is truncated."""


def load_reduced(source: ImageSource, min_size: float, part: float | None = None) -> ReducedImage:
    """Read an upright image for a model that needs no more than a given size.

    JPEG files are decoded at 1/2, 1/4 or 1/8 of their size if the longer side then still has at least `min_size`
    pixels.

    Args:
        source: The image.
        min_size: Minimum of the longer side, in pixels.
        part: If `min_size` applies to only a part of the image, the longer side of this part, in pixels of the whole
            image.

    Raises:
        ImageError: See `load_image`.
        MissingPathError: If the path does not exist.
    """
    if isinstance(source, str | PathLike | bytes | BytesIO):
        jpeg = _decode_jpeg(_file(source), min_size, part)
        if jpeg is not None:
            return jpeg
    return to_reduced(load_image(source))


def to_reduced(image: Image.Image) -> ReducedImage:
    """Return an RGB image from `load_image` as a `ReducedImage` of full size."""
    return ReducedImage(np.asarray(image), image.size, image.info.get("truncated", False))


def image_files(sources: Iterable[str | PathLike[str]]) -> list[str]:
    """List image files, including those in folders and those that match patterns.

    Args:
        sources: Files, folders (searched by `walk_images`) and patterns such as ``faces/*.jpg`` or ``**/*.png``.

    Returns:
        Paths of files, in alphabetical order for each source. Files that do not exist are listed, too.

    Raises:
        MissingPathError: If a folder contains no images, or no file matches a pattern.
    """
    files: list[str] = []
    for source in [str(fspath(source)) for source in sources]:
        # Unlike the methods of Path, the functions of os.path raise no error if a name is too long or a folder cannot
        # be read.
        if os.path.isdir(source):
            found = sorted(map(fspath, walk_images(source)))
            if not found:
                kinds = " ".join(sorted(IMAGE_SUFFIXES))
                raise MissingPathError(
                    "the folder has no images", where=source, remedy=f"Use a folder with {kinds} files."
                )
        elif glob.has_magic(source) and not os.path.exists(source):
            found = sorted(path for path in glob.glob(source, recursive=True) if os.path.isfile(path))
            if not found:
                raise MissingPathError("no file matches the pattern", where=source, remedy="Check the pattern.")
        else:
            found = [source]
        files += found
    return files


def walk_images(
    root: str | PathLike[str], skip: tuple[str, ...] = (), onerror: Callable[[OSError], None] | None = None
) -> Iterator[Path]:
    """Yield the images in a folder and its subfolders, including linked folders, in no particular order.

    Images whose names begin with a period are ignored. Each folder is searched once, even if links lead to it again,
    preferably by its path without links.

    Args:
        root: The folder.
        skip: Ignore subfolders whose names begin with one of these texts.
        onerror: Called if a folder cannot be read; by default, the folder is skipped.
    """
    starts, visited = [fspath(root)], set[str]()
    for start in starts:  # the list grows during the loop
        for folder, subfolders, names in os.walk(start, onerror=onerror):  # does not follow links
            subfolders[:] = sorted(name for name in subfolders if not name.startswith(skip))
            if (real := os.path.realpath(folder)) in visited:
                subfolders.clear()
                continue
            visited.add(real)
            starts += [path for name in subfolders if os.path.islink(path := os.path.join(folder, name))]
            for name in names:
                path = os.path.join(folder, name)
                suffix = os.path.splitext(name)[1].lower()
                if suffix in IMAGE_SUFFIXES and not name.startswith(".") and os.path.isfile(path):
                    yield Path(path)


def chunked(pictures: Iterable[T], pixels: Callable[[T], int], max_pictures: int, max_pixels: int) -> Iterator[list[T]]:
    """Group pictures that are in memory only until the next group is requested, which empties the list.

    Args:
        pictures: The pictures, which are read when they are needed.
        pixels: Returns the number of pixels that a picture keeps in memory.
        max_pictures: Maximum number of pictures in a group.
        max_pixels: A group ends when it reaches this number of pixels.
    """
    group: list[T] = []
    total = 0
    for picture in pictures:
        group.append(picture)
        total += pixels(picture)
        if len(group) == max_pictures or total >= max_pixels:
            yield group
            group.clear()
            total = 0
    if group:
        yield group


def as_images(images: ImageSource | Iterable[ImageSource]) -> tuple[Iterable[ImageSource], bool]:
    """Return images as an iterable, and whether the input is a single image.

    Args:
        images: One image, an iterable of images, or an array or tensor of several, (B, H, W, C) or (B, C, H, W).
    """
    if isinstance(images, np.ndarray) or hasattr(images, "cpu"):
        single = images.ndim != 4  # pyrefly: ignore[missing-attribute]
    else:
        # Open files and mappings count as single images, which `load_image` rejects. Otherwise, iteration would yield
        # their lines or keys.
        single = isinstance(images, str | PathLike | bytes | IOBase | Mapping) or not isinstance(images, Iterable)
    sources: Any = [images] if single else images
    return sources, single


def allow_pixels(count: int) -> None:
    """Let this process read images of up to this many pixels; Pillow's default limit is 178,956,970.

    Larger images may exhaust the memory, which attackers can exploit.
    """
    Image.MAX_IMAGE_PIXELS = (count + 1) // 2  # Pillow raises an error above twice the limit
    warnings.simplefilter("ignore", Image.DecompressionBombWarning)


def _file(source: str | PathLike[str] | bytes | BytesIO) -> Path | BytesIO:
    if isinstance(source, bytes):
        return BytesIO(source)
    if isinstance(source, BytesIO):
        return BytesIO(source.getvalue())
    path = Path(source)
    if path.is_dir():
        raise MissingPathError(
            "a folder, not an image",
            where=fspath(path),
            remedy="List its images with `explllm.faces.images.image_files`.",
        )
    if not path.is_file():
        raise MissingPathError("the image does not exist", where=fspath(path), remedy="Check the path.")
    return path


def _content(file: Path | BytesIO) -> bytes:
    return file.getvalue() if isinstance(file, BytesIO) else file.read_bytes()


def open_image(file: Path | BytesIO) -> Image.Image:
    """Open an image file and read its header; the pixels are decoded when they are used.

    Raises:
        ImageError: If it is a HEIC image and pillow-heif is not installed.
        UnidentifiedImageError: If it is not an image, or in an unknown format. Pillow raises other errors, too.
    """
    try:
        return _open(file)
    except UnidentifiedImageError:
        start = _content(file)[:12]
        # The header of ISO media files: the box type, then the file type.
        if start[4:8] != b"ftyp" or start[8:12] not in _HEIF:
            raise
    register_heif()
    return _open(file)


def register_heif() -> None:
    """Let Pillow read Apple's HEIC format; `load_image` calls this on first use.

    Raises:
        ImageError: If pillow-heif is not installed.
    """
    try:
        from pillow_heif import register_heif_opener
    except ImportError as error:
        raise ImageError(
            "a HEIC image, which needs the package pillow-heif", remedy='Install it: pip install "explllm[heif]".'
        ) from error
    register_heif_opener()


def _open(file: Path | BytesIO) -> Image.Image:
    Image.init()  # Pillow loads most readers only on demand
    return Image.open(file, formats=[name for name in _FORMATS if name in Image.OPEN])


_HEIF = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")


def _decode_jpeg(file: Path | BytesIO, min_size: float, part: float | None) -> ReducedImage | None:
    """Decode an intact gray or RGB JPEG file with OpenCV, twice as fast as Pillow does. Return None for other files."""
    try:
        with open_image(file) as header:
            if header.format != "JPEG" or header.mode not in ("RGB", "L"):
                return None
            size, orientation = header.size, header.getexif().get(_ORIENTATION, 1)
    except Exception:  # `load_image` reports the reason
        return None
    content = _content(file)
    if not content.rstrip(b"\0").endswith(b"\xff\xd9"):
        return None
    flags = {8: cv2.IMREAD_REDUCED_COLOR_8, 4: cv2.IMREAD_REDUCED_COLOR_4, 2: cv2.IMREAD_REDUCED_COLOR_2}
    flag = next((flags[n] for n in flags if (part or max(size)) / n >= min_size), cv2.IMREAD_COLOR)
    pixels: Any = cv2.imdecode(np.frombuffer(content, np.uint8), flag | cv2.IMREAD_IGNORE_ORIENTATION)
    if pixels is None:
        return None
    cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB, dst=pixels)
    if orientation in _TURNS:
        pixels = _TURNS[orientation](pixels)
        size = size if orientation < 5 else size[::-1]
    return ReducedImage(pixels, size)


def _read_truncated(file: Path | BytesIO, upright: bool) -> Image.Image | None:
    """Read a truncated JPEG file, filling missing rows with gray. Return None if that fails or too many are missing."""
    try:
        # If the end marker is appended, the decoder fills the missing rows.
        with open_image(BytesIO(_content(file) + b"\xff\xd9")) as image:
            if image.format != "JPEG":
                return None
            image.load()
            gray = np.asarray(image.convert("L"))
            constant = np.ptp(gray, axis=1) == 0
            missing = int(np.argmin(constant[::-1])) if not constant.all() else len(constant)
            if missing > _MAX_GRAY_ROWS * len(constant):
                return None
            result = _to_rgb(image, upright)
    except Exception:  # the file remains unreadable
        return None
    result.info["truncated"] = True
    return result


def _too_large(error: Exception, where: str | None) -> ImageError:
    pixels = re.search(r"\d+", str(error))
    count = f"{int(pixels[0]):,}" if pixels else "very many"
    return ImageError(
        f"the image has {count} pixels, more than the limit",
        where=where,
        remedy="Shrink it. If you trust the file: `explllm faces` and `explllm aus` have --max_pixels, and Python code "
        "can call explllm.faces.images.allow_pixels first.",
    )


def _from_array(source: Any) -> Image.Image:
    if hasattr(source, "cpu"):
        source = source.detach().cpu()
        if source.is_floating_point() and source.itemsize < 4:  # such as bfloat16, which NumPy lacks
            source = source.float()
    array = np.asarray(source)
    if array.ndim == 3 and array.shape[0] in (1, 3, 4) and array.shape[2] not in (1, 3, 4):
        array = array.transpose(1, 2, 0)
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    layout = array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (3, 4))
    if array.dtype.kind == "f" and layout and array.size and array.min() >= 0 and array.max() <= 1:
        array = np.round(array * 255).astype(np.uint8)
    if array.dtype != np.uint8 or not layout or not array.size:
        raise ImageError(
            f"an array of shape {array.shape} and type {array.dtype} is not an image",
            remedy="Use uint8 or floats in [0, 1], of shape (H, W), (H, W, 3), (H, W, 4) or channels first.",
        )
    return Image.fromarray(np.ascontiguousarray(array))


def _to_rgb(image: Image.Image, upright: bool) -> Image.Image:
    if upright:
        image = ImageOps.exif_transpose(image)
    # Convert wide modes before handling transparency; otherwise, Pillow would clip their values to 255. In these modes,
    # a transparent gray level stays gray.
    if image.mode.startswith("I;16") or image.mode in ("I", "F"):
        return Image.fromarray(_to_8_bits(np.array(image, dtype=np.float64), image.mode)).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        canvas = Image.new("RGBA", image.size, (255, 255, 255, 255))
        return Image.alpha_composite(canvas, image).convert("RGB")
    return image.convert("RGB")


def _to_8_bits(values: np.ndarray, mode: str) -> np.ndarray:
    """Scale gray values of a wide mode to 0-255."""
    low, high = (float(values.min()), float(values.max())) if values.size else (0.0, 0.0)
    if mode.startswith("I;16"):
        scale = 1 / 257
    elif low >= 0 and high <= 1 and mode == "F":
        scale = 255.0
    elif low >= 0 and high <= 255:
        scale = 1.0
    elif low >= 0 and high <= 65535 and mode == "I":
        scale = 1 / 257
    else:  # NaN too
        kind = "floating point" if mode == "F" else "32-bit"
        raise ImageError(
            f"{kind} pixels from {low:g} to {high:g}, whose range is unclear",
            remedy="Save the image with 8 or 16 bits per channel, or floats from 0 to 1.",
        )
    result: np.ndarray = np.round(values * scale).astype(np.uint8)
    return result
