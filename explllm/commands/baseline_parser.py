"""The command ``explllm baseline``."""

import argparse

from explllm.commands.cot import add_asking, add_model
from explllm.commands.parser import Parser, at_least
from explllm.core.expressions import LABEL_SETS
from explllm.faces.crop import DEFAULT_MARGIN

_DESCRIPTION = """Show every face of a manifest to a multimodal model, and ask it for the expression and then for a
chain of thought in the paper's form (the GPT-4o of Table III). Nothing is trained and nothing corrected: the first
answer counts.

  explllm baseline faces.parquet --model gpt-4o --estimate
  explllm baseline faces.parquet --model gpt-4o --send-images --split test --sample 100 --max-cost 5
  explllm score faces_gpt-4o.parquet --reference faces_cot.parquet --judge gpt-4o
  explllm compare runs/rafdb faces_gpt-4o.run

--send-images is needed, because pictures of faces are personal data: they go to the server that --base-url names, by
default OpenAI's. Of each row the box is cut out with a margin, upright, at most --size pixels, as a JPEG without
metadata. The server gets neither file names nor labels. The ledger keeps questions, answers, cost and a hash of each
picture, never the picture.

The manifest that is written holds `predicted` (empty where the answer names no expression, which counts as wrong),
`answer` (its words), `cot`, `cot_source`, `cot_status`, `cot_reason` and `cot_cost`. Beside it OUT.run holds the
ledger, metrics.json and predictions.parquet.

The same command again goes on where a run was stopped: no answer is paid for twice, and a picture that has changed is
asked about anew. An OUT or a run folder of anything else is replaced only with --overwrite. Rows in which
`explllm faces` found no face are left out. `explllm cot status OUT` and `explllm cot show OUT ROW` work here too. The
exit status is 1 if a row failed."""


def run_baseline(arguments: list[str]) -> int:
    """Run ``explllm baseline``.

    Args:
        arguments: The command line after ``baseline``.

    Returns:
        The exit status: 1 if a row failed.

    Raises:
        InputError: If the user made a mistake.
    """
    options = _parser().parse_args(arguments)
    from explllm.commands.baseline import baseline

    return baseline(options)


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="explllm baseline", description=_DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("manifest", metavar="M", help="a manifest of images; with expressions, figures are computed")
    parser.add_argument("--send-images", action="store_true", help="yes, the pictures may leave this machine")
    parser.add_argument("--estimate", action="store_true", help="print calls, tokens and cost; send nothing")
    parser.add_argument(
        "-o", "--out", metavar="OUT", help="the manifest to write (.parquet, .csv, .jsonl; default: M_MODEL beside M)"
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="replace an existing OUT that is not the beginning of this run"
    )
    parser.add_argument("--root", metavar="DIR", help="the folder that image paths start from (default: that of M)")
    parser.add_argument("--run-dir", metavar="DIR", help="where ledger and figures go (default: OUT with .run)")
    parser.add_argument("--split", metavar="NAME", help="only rows of this split, such as test")
    parser.add_argument(
        "--sample", type=at_least(1), metavar="N", help="only so many rows, drawn at random (the paper: 100)"
    )
    parser.add_argument("--seed", type=at_least(0), default=0, metavar="N", help="of that draw (default: 0)")
    parser.add_argument(
        "--label-set",
        metavar="NAME",
        help=f"the classes to answer among: {', '.join(LABEL_SETS)}; rows labeled otherwise are left out (default: "
        "the seven basic expressions, or all eight if a row is labeled Contempt or none is labeled)",
    )
    parser.add_argument(
        "--size",
        type=at_least(16),
        default=512,
        metavar="N",
        help="most pixels of width and height that are sent (default: 512)",
    )
    parser.add_argument(
        "--margin",
        type=at_least(-0.4, float),
        default=DEFAULT_MARGIN,
        metavar="X",
        help=f"around a box, as a share of its longer side (default: {DEFAULT_MARGIN:g})",
    )
    parser.add_argument(
        "--max-tokens",
        type=at_least(1),
        default=512,
        metavar="N",
        help="longest answer; one that is cut off is asked for again with room for hidden reasoning (default: 512)",
    )
    parser.add_argument("--temperature", type=at_least(0, float), default=0.0, metavar="T", help="of sampling (0)")
    add_model(parser)
    add_asking(parser)
    return parser
