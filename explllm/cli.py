"""The command ``explllm``: every command in one table, each loading what it needs only when it runs."""

import argparse
import errno
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from explllm import __version__
from explllm.commands.parser import Parser, at_least
from explllm.core.errors import InputError


@dataclass(frozen=True)
class Command:
    """One command of the table."""

    name: str
    """What the user types."""
    summary: str
    """One line for ``explllm --help``."""
    run: Callable[[list[str]], int | None]
    """Does the work with the arguments that follow the name; may return another exit status than 0."""


def _lightning(name: str) -> Callable[[list[str]], None]:
    def run(arguments: list[str]) -> None:
        from explllm.commands.lightning_cli import run_stage

        run_stage(name, arguments)

    return run


def _explain(arguments: list[str]) -> int:
    parser = Parser(
        prog="explllm explain",
        description="Recognize the expression of faces and explain it: key observations, interpretation, conclusion. "
        "A picture is taken for one face, cropped to it; with --detector its faces are found first.",
        epilog="examples: explllm explain face.jpg --model runs/demo/model; explllm explain party.jpg --model DIR "
        "--detector scrfd.onnx --picture explained.png",
    )
    parser.add_argument("images", nargs="+", metavar="IMAGE", help="a picture of one face; any, with --detector")
    parser.add_argument("--model", required=True, metavar="DIR", help="a folder that `fit` wrote: runs/NAME/model")
    parser.add_argument("--device", help="where the model runs, such as cuda or cpu (default: cpu)")
    parser.add_argument(
        "--max-new-tokens", type=int, default=320, metavar="N", help="longest explanation, in tokens (default: 320)"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object a line")
    parser.add_argument("--detector", metavar="FILE", help="find the faces first, with this SCRFD detector (ONNX)")
    parser.add_argument(
        "--which",
        choices=("largest", "central", "all"),
        default="all",
        help="the face to take of several that the detector finds (default: all)",
    )
    parser.add_argument(
        "--margin",
        type=at_least(-0.4, float),
        metavar="SHARE",
        help="of a found face's longer side, added on each side of it (default: as in the model's training)",
    )
    measuring = parser.add_mutually_exclusive_group()
    measuring.add_argument(
        "--landmarker", metavar="FILE", help="measure the action units too, with MediaPipe's face_landmarker.task"
    )
    measuring.add_argument(
        "--onnx", metavar="FILE", help="or with a model of 24 outputs, such as the au_regressor.onnx of a run"
    )
    parser.add_argument(
        "--picture",
        metavar="FILE",
        help="draw boxes, labels, action units and texts into this file (.png, .jpg, .webp)",
    )
    options = parser.parse_args(arguments)

    from explllm.commands.explain import explain_images

    return explain_images(
        options.images,
        options.model,
        options.device,
        options.max_new_tokens,
        options.json,
        detector=options.detector,
        which=options.which,
        margin=options.margin,
        landmarker=options.landmarker,
        onnx=options.onnx,
        picture=options.picture,
    )


def _describe(arguments: list[str]) -> None:
    parser = Parser(
        prog="explllm describe",
        description="Tell what a configuration means before anything is downloaded or trained: parts, trainable "
        "weights, optimizer steps, warm-up, memory of a GPU. Takes the options of `fit` too.",
        epilog="example: explllm describe --config rafdb.yaml",
    )
    parser.add_argument("--config", required=True, metavar="NAME", help="a configuration, as for `fit`")
    parser.add_argument(
        "--images", type=at_least(1), metavar="N", help="training images (default: counted, else as published)"
    )
    parser.add_argument(
        "--gpus", type=at_least(1), default=8, metavar="N", help="GPUs that share the work (default: 8)"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options, others = parser.parse_known_args(arguments)

    from explllm.commands.describe import print_description

    print_description(["--config", options.config, *others], options.images, options.gpus, options.json)


def _convert(arguments: list[str]) -> None:
    parser = Parser(
        prog="explllm convert",
        description="Turn weights into a folder that `explllm explain --model` and ExpLLM.from_pretrained open.",
        epilog="example: explllm convert released Downloads/ExpLLM models/explllm",
    )
    kinds = parser.add_subparsers(dest="kind", metavar="KIND", required=True, parser_class=Parser)
    released = kinds.add_parser("released", help="the weights that the authors of ExpLLM released, in their format")
    released.add_argument("--merge", action="store_true", help="fold LoRA into the base weights")
    released.add_argument(
        "--vision-heads",
        type=at_least(1),
        metavar="N",
        help="attention heads of the vision encoder, which no released file holds; needed only where it is none of "
        "DINOv2's own encoders",
    )
    merge = kinds.add_parser("merge", help="a model of ours: LoRA folded into plain Hugging Face parts")
    for kind, what in ((released, "pytorch_model.bin, config.json, tokenizer"), (merge, "runs/NAME/model")):
        kind.add_argument("folder", metavar="DIR", help=f"the folder to read: {what}")
        kind.add_argument("out", metavar="OUT", help="the folder to write; it must not exist yet")
    options = parser.parse_args(arguments)

    from explllm.commands.convert import convert_merged, convert_released_weights

    if options.kind == "merge":
        convert_merged(options.folder, options.out)
    else:
        convert_released_weights(options.folder, options.out, options.merge, options.vision_heads)


def _data(arguments: list[str]) -> None:
    from explllm.commands.data import read_data

    read_data(arguments, Parser)


def _faces(arguments: list[str]) -> int | None:
    from explllm.commands.faces import detect_command

    return detect_command(arguments)


def _aus(arguments: list[str]) -> int | None:
    from explllm.commands.faces import action_units_command

    return action_units_command(arguments)


def _cot(arguments: list[str]) -> int | None:
    from explllm.commands.cot import run_cot

    return run_cot(arguments)


def _baseline(arguments: list[str]) -> int:
    from explllm.commands.baseline_parser import run_baseline

    return run_baseline(arguments)


def _score(arguments: list[str]) -> int:
    from explllm.commands.cot import add_asking, add_server

    parser = Parser(
        prog="explllm score",
        description="Measure texts and labels made elsewhere: form, agreement with the label, grounding in measured "
        "action units; accuracy, macro recall and the like of the column `predicted`, else of what texts arrive at; "
        "and with --reference the Exp-CoT Score, by a language model or by rules.",
        epilog="example: explllm score runs/rafdb --reference faces_cot.parquet --judge gpt-4o --max-cost 2",
    )
    parser.add_argument(
        "generated", metavar="TABLE", help="a manifest, a run folder, or a list or result of the released code (.json)"
    )
    parser.add_argument("--reference", metavar="TABLE", help="texts to judge by, joined by image and box")
    parser.add_argument(
        "--judge", dest="model", default="offline", metavar="NAME", help="a model's name, or offline (the default)"
    )
    parser.add_argument("-o", "--out", metavar="FILE", help="figures and scores of each text, as JSON lines")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    add_server(parser)
    add_asking(parser)
    options = parser.parse_args(arguments)

    from pathlib import Path

    from explllm.commands.score import score

    judge = None
    if options.model != "offline":
        from explllm.commands.cot import chat_settings

        judge = chat_settings(options)
    paths = [None if path is None else Path(path) for path in (options.reference, options.out)]
    return score(Path(options.generated), paths[0], judge, paths[1], options.json)


def _compare(arguments: list[str]) -> None:
    parser = Parser(
        prog="explllm compare",
        description="Put tested runs side by side: figures, paired significance, the faces on which they differ.",
        epilog="example: explllm compare runs/rafdb runs/no_cot -o comparison",
    )
    parser.add_argument("runs", nargs="+", metavar="RUN", help="run folders that `test` has written to")
    parser.add_argument("-o", "--out", metavar="DIR", help="where compare.html and the table of faces go")
    options = parser.parse_args(arguments)

    from explllm.commands.compare import compare

    compare(options.runs, options.out)


COMMANDS = (
    Command("fit", "train a model: explllm fit --config demo.yaml", _lightning("fit")),
    Command("validate", "recognize the validation faces of a run", _lightning("validate")),
    Command("test", "recognize the test faces of a run; write metrics, predictions, a report", _lightning("test")),
    Command("predict", "recognize every face of a data set, labeled or not", _lightning("predict")),
    Command("explain", "explain single pictures: explllm explain face.jpg --model runs/demo/model", _explain),
    Command("data", "a data set as its publisher ships it, into a manifest: explllm data rafdb DIR -o FILE", _data),
    Command("faces", "find the faces in a manifest's images: boxes, crops", _faces),
    Command("aus", "estimate the 24 action units of a manifest's faces", _aus),
    Command("cot", "chains of thought from action units: build, estimate, status, check, show", _cot),
    Command("baseline", "a model such as GPT-4o, shown the pictures: labels and chains of thought", _baseline),
    Command("score", "measure chains of thought: grounding, Exp-CoT Score", _score),
    Command("compare", "put tested runs side by side, with significance", _compare),
    Command("describe", "what a configuration means: weights, steps, memory", _describe),
    Command("convert", "the authors' released weights, or a trained model, into another form", _convert),
)


def _rank() -> str:
    """Say which process of several speaks, unless it is the first."""
    rank = os.environ.get("LOCAL_RANK", "0")
    return "" if rank == "0" else f"[rank {rank}] "


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        arguments: The command line without the program's name; by default that of the process.

    Returns:
        The exit status: 0; 1 where part of the work failed; 2 after a mistake of the user, which is printed in one
        line; 130 after Ctrl-C.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    width = max(len(command.name) for command in COMMANDS)
    parser = Parser(
        prog="explllm",
        description="Facial expressions, recognized and explained.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="commands:\n"
        + "\n".join(f"  {command.name:{width}}  {command.summary}" for command in COMMANDS)
        + "\n\nexplllm COMMAND --help tells more.",
    )
    parser.add_argument("--version", action="version", version=f"explllm {__version__}")
    parser.add_argument("command", choices=[command.name for command in COMMANDS], metavar="COMMAND")
    if not given:
        parser.print_help(sys.stderr)
        return 2
    try:
        named = parser.parse_args(given[:1])
        status = next(command for command in COMMANDS if command.name == named.command).run(given[1:])
    except InputError as error:
        sys.stderr.write(f"{_rank()}error: {error}\n")
        return 2
    except OSError as error:
        # A file that cannot be read or written, or a full disk; anything else is a fault of ours.
        if error.filename is None and error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        where = "" if error.filename is None else f" [{error.filename}]"
        sys.stderr.write(f"{_rank()}error: {error.strerror}{where}. Check the path, its permissions and its disk.\n")
        return 2
    except KeyboardInterrupt as stop:
        sys.stderr.write(" ".join(["interrupted.", *getattr(stop, "__notes__", [])]) + "\n")
        return 130
    return status or 0
