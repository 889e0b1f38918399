"""The command ``explllm doctor``: installed, missing and broken packages, with a fix for each problem."""

from __future__ import annotations

import json
import sys
from typing import Annotated

from explllm.commands.parser import Option


def doctor(*, as_json: Annotated[bool, Option("json")] = False) -> int:
    """Check the installation: versions, devices, missing extras, conflicting packages.

    Each problem is printed with its fix. The exit status is 1 if there is a problem.

      explllm doctor
      explllm doctor --json

    Args:
        as_json: Print one JSON object.
    """
    from explllm.core.environment import inspect_environment
    from explllm.faces.onnx_session import has_nvidia_gpu

    result = inspect_environment(has_nvidia_gpu())
    if as_json:
        sys.stdout.write(json.dumps(result.to_dict(), indent=2) + "\n")
        return int(bool(result.problems))
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from explllm.core.console import print_table
    from explllm.core.downloads import file_size

    console = Console(highlight=False)
    files = result.cache["files"]
    cache = f"{result.cache['folder']}: {len(files)} files, {file_size(sum(files.values()))}"
    lines = {
        "Python": f"{result.python} on {result.platform}",
        "devices": ", ".join(result.devices) or "unknown",
        "onnxruntime": ", ".join(result.onnxruntime_providers) or "not available",
        "OpenCV": ", ".join(result.opencv_builds) or "not installed",
        "downloads": cache,
        **result.variables,
    }
    for name, text in lines.items():
        console.print(f"{name:12} {escape(text)}", soft_wrap=True)
    table = Table(title="\npackages", title_justify="left")
    for column in ("package", "version"):
        table.add_column(column)
    for name, version in sorted(result.versions.items()):
        table.add_row(name, version or "-")
    print_table(console, table)
    for extra, missing in result.missing_extras.items():
        packages = ", ".join(missing["packages"])
        console.print(f"optional: {extra} needs {packages}. {escape(missing['install'])}", soft_wrap=True)
    for problem in result.problems:
        console.print(
            f"[bold]problem: {escape(problem.problem)}[/bold]\n  fix:  {escape(problem.cure)}", soft_wrap=True
        )
    if not result.problems:
        console.print("no problems found")
    return int(bool(result.problems))
