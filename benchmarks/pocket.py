"""How good the model in the package is: python benchmarks/pocket.py FOLDER [--model DIR] [-o docs/pages/how_good.md].

Recognizes and explains every face of FOLDER/test (class subfolders; action units from action_units.csv), and prints a
Markdown page: accuracy, recall by class, confusion, calibration, reliability of the explanations against the measured
action units, and ten faces where the model is wrong with the highest confidence.
"""

import argparse
import time
from pathlib import Path
from typing import Any

import pandas as pd
from host import environment

from explllm import ExpLLM
from explllm.data.folder import read_folder
from explllm.explanations.grounding import ACTIVE, ground
from explllm.metrics.answers import Answers
from explllm.metrics.evaluation import explanation_metrics, recognition_metrics

INTRODUCTION = """# How good is it

The model in the package was trained on two CPU cores, from random weights, on FER2013's training faces (see its card,
`explllm/pretrained/pocket/README.md`). FER2013's labels are noisy: people agree with them on about 65% of the faces
(published: Goodfellow et al. 2013). Its chains of thought were learned from texts written by rules.

This page was written by `python benchmarks/pocket.py FOLDER -o docs/pages/how_good.md`.
"""

STRONG = 0.6
"""Intensity of a unit that an explanation should name."""


def main() -> None:
    """Test a model and print the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", help="a folder of class subfolders, in train and test")
    parser.add_argument(
        "--model", default="explllm/pretrained/pocket", help="the model's folder (default: %(default)s)"
    )
    parser.add_argument("-o", "--out", type=Path, help="the page to write (default: print it)")
    options = parser.parse_args()
    model = ExpLLM.from_pretrained(options.model)
    manifest = read_folder(options.root)
    rows = [row for row in range(len(manifest)) if manifest.frame["split"].iloc[row] == "test"]
    start = time.monotonic()
    results = model.recognize_and_explain([manifest.image_path(row) for row in rows])
    seconds = time.monotonic() - start
    recognitions, cots = zip(*results, strict=True)
    table = recognitions_table(recognitions, [str(manifest.frame["expression"].iloc[row]) for row in rows])
    metrics = recognition_metrics(Answers.from_table(table, model.labels))
    units = [manifest.intensities_at(row) for row in rows]
    labels = [recognition.expression for recognition in recognitions]
    texts = [cot.text for cot in cots]
    explained = explanation_metrics(texts, labels, units, [None] * len(texts))
    page = [
        INTRODUCTION,
        f"{environment()}; {len(rows)} test faces, {seconds:.0f} s for recognition and explanation\n",
        "## Recognition\n",
        *recognition_page(metrics),
        *explanation_page(explained, texts, units),
        *errors_page(table, [manifest.frame["image"].iloc[row] for row in rows], texts),
    ]
    text = "\n".join(page) + "\n"
    if options.out:
        options.out.write_text(text, encoding="utf-8")
    print(text)


def recognitions_table(recognitions: Any, expressions: list[str]) -> pd.DataFrame:
    """Return a table as `explllm test` writes it."""
    return pd.DataFrame(
        {
            "expression": expression,
            "predicted": str(one.expression),
            **{f"p_{label}": probability for label, probability in one.probabilities.items()},
        }
        for one, expression in zip(recognitions, expressions, strict=True)
    )


def recognition_page(metrics: dict[str, Any]) -> list[str]:
    """Return accuracy, calibration and confusion."""
    low, high = metrics["accuracy_interval"]
    lines = [
        "| accuracy (95%) | macro recall | macro F1 | ECE | negative log-likelihood |",
        "|---|---|---|---|---|",
        f"| {metrics['accuracy']:.3f} ({low:.3f} to {high:.3f}) | {metrics['macro_recall']:.3f} "
        f"| {metrics['macro_f1']:.3f} | {metrics['ece']:.3f} | {metrics['nll']:.3f} |",
        "\nRows are true expressions, columns predicted ones:\n",
        f"| | {' | '.join(metrics['labels'])} | recall |",
        "|---" * (len(metrics["labels"]) + 2) + "|",
    ]
    for label, counts in zip(metrics["labels"], metrics["confusion"], strict=True):
        cells = map(str, counts[: len(metrics["labels"])])  # the last column counts answers without a label: none here
        lines.append(f"| {label} | {' | '.join(cells)} | {metrics[f'recall/{label}']:.2f} |")
    reliability = metrics["reliability"]
    lines += ["\n| confidence | faces | mean confidence | accuracy |", "|---|---|---|---|"]
    bins = len(reliability["counts"])
    for number, count in enumerate(reliability["counts"]):
        if count:
            confidence, accuracy = reliability["confidence"][number], reliability["accuracy"][number]
            lines.append(
                f"| {number / bins:.2f} to {(number + 1) / bins:.2f} | {count} | {confidence:.2f} | {accuracy:.2f} |"
            )
    return lines


def explanation_page(explained: dict[str, Any], texts: list[str], units: list[Any]) -> list[str]:
    """Return the agreement of the texts with measured action units and with the recognized label."""
    measured = [(text, values) for text, values in zip(texts, units, strict=True) if values is not None]
    missing = sum(len(ground(text, values, strong=STRONG).missing) for text, values in measured)
    strong = sum(value is not None and value >= STRONG for _, values in measured for value in values)
    low, high = explained["grounding_gain_interval"]
    return [
        "\n## Explanations\n",
        f"Compared with the units that MediaPipe measured on {len(measured)} of the faces (a unit is active "
        f"from {ACTIVE}):\n",
        "| metric | value |",
        "|---|---|",
        f"| texts with all three sections | {explained['complete']:.3f} |",
        f"| conclusion agrees with the recognized label | {explained['agreement']:.3f} |",
        f"| precision of claims | {explained['grounding_precision']:.3f} |",
        f"| recall of active units | {explained['grounding_recall']:.3f} |",
        f"| units of at least {STRONG} that are named | {1 - missing / max(strong, 1):.3f} |",
        f"| F1 of claims | {explained['grounding_f1']:.3f} |",
        f"| grounding gain (95%) | {explained['grounding_gain']:.3f} ({low:.3f} to {high:.3f}) |",
        f"| texts that contradict themselves | {explained['self_contradiction']:.3f} |",
    ]


def errors_page(table: pd.DataFrame, names: list[str], texts: list[str]) -> list[str]:
    """Return the ten wrong answers with the highest confidence."""
    confidence = table.filter(regex="^p_").max(axis=1)
    wrong = confidence[table["expression"] != table["predicted"]].nlargest(10).index
    lines = [
        "\n## The ten most confident errors\n",
        "| face | labeled | recognized | explanation |",
        "|---|---|---|---|",
    ]
    for row in wrong:
        answer = f"{table.at[row, 'predicted']} ({confidence[row]:.2f})"
        lines.append(f"| {names[row]} | {table.at[row, 'expression']} | {answer} | {' '.join(texts[row].split())} |")
    return lines


if __name__ == "__main__":
    main()
