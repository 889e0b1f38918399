"""The commands ``explllm recognize`` and ``explllm explain``: the expressions of faces in pictures."""

from __future__ import annotations

from typing import Annotated

from explllm.commands.parser import Option
from explllm.commands.pictures import PictureOptions, answer_pictures
from explllm.commands.streaming import EstimatorOptions
from explllm.faces.estimators import selected_estimator


def recognize(images: list[str], *, options: PictureOptions) -> int:
    """Recognize the expressions of faces, without explanations.

    The output is the most likely expression and the probability of each class. Labels are scored and no text is
    generated, so this is much faster than `explain`.

      explllm recognize face.jpg
      explllm recognize faces/ --model runs/demo/model -o expressions.csv
      explllm recognize party.jpg --detector scrfd.onnx

    If a face detector is present (`explllm models get scrfd`), the faces of a photograph are detected first. Otherwise
    each picture is treated as one cropped face.

    If one of several pictures cannot be read, its row states the reason. The exit status is 1 in this case, or if a
    photograph shows no face. If the only picture cannot be read, the exit status is 2.

    Args:
        images: Pictures, folders, patterns such as 'faces/*.jpg', URLs (with --allow_urls), or - for standard input.
        options: The model, the faces and the output.

    Raises:
        InputError: If the only picture, the model or an option cannot be used.
    """
    return answer_pictures(images, options, None, None)


def explain(
    images: list[str],
    *,
    options: PictureOptions,
    max_new_tokens: Annotated[int, Option(minimum=1, maximum=32768)] = 320,
    estimator: EstimatorOptions,
    no_speculation: bool = False,
) -> int:
    """Recognize the expressions of faces and explain them.

    The explanation has three parts: key observations, interpretation, conclusion. If a face detector is present
    (`explllm models get scrfd`), the faces of a photograph are detected first. Otherwise each picture is treated as one
    cropped face. With an action unit estimator, the claims of the explanation are checked.

      explllm explain face.jpg
      explllm explain party.jpg --model DIR --detector scrfd.onnx --picture out.png
      explllm explain faces/ --model DIR --json
      curl -s URL | explllm explain -

    If one of several pictures cannot be read, its row states the reason. The exit status is 1 in this case, or if a
    photograph shows no face. If the only picture cannot be read, the exit status is 2.

    Args:
        images: Pictures, folders, patterns such as 'faces/*.jpg', URLs (with --allow_urls), or - for standard input.
        options: The model, the faces and the output.
        max_new_tokens: Maximum length of an explanation, in tokens.
        estimator: An estimator whose action units are compared with the explanation, and its options.
        no_speculation: Generate one token per forward pass. This takes longer. In float32, the texts are the same.

    Raises:
        InputError: If the only picture, the model or an option cannot be used.
    """
    return answer_pictures(images, options, selected_estimator(estimator), max_new_tokens, not no_speculation)
