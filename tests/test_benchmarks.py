"""Benchmarks of the GPU and of the server, at tiny size on the CPU."""

import re
import subprocess
import sys

import pytest


@pytest.mark.slow
def test_the_gpu_benchmark(repository, tmp_path):
    script = [sys.executable, str(repository / "benchmarks/gpu.py"), "--size", "tiny", "--device", "cpu"]
    done = subprocess.run(script, capture_output=True, text=True, timeout=600, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    rows = dict(re.findall(r"^\| ([^|]+?) \| ([^|]+?) \|", done.stdout, re.MULTILINE))
    assert float(rows["matrix product, bfloat16"].split()[0]) >= 0
    for job in ("training", "recognition", "explanation"):
        for name in ("explllm", "Hugging Face"):
            [value] = [value for row, value in rows.items() if row.startswith(f"{job}, {name}") and "4-bit" not in row]
            assert float(value.split()[0].replace(",", "")) > 0
    assert re.match(r"[\d,]+ tokens/s|not measured: bitsandbytes", rows["training, explllm, 4-bit base weights"])
    assert float(rows["fsdp2 beside ddp on one device, 5 steps"].split()[-1]) < 1e-6  # measured: 0


@pytest.mark.slow
def test_the_server_benchmark(repository, tmp_path):
    """The command `explllm serve` as a process: right answers only, and errors for all kinds of garbage."""
    options = ["--requests", "100", "--garbage", "0.1", "--clients", "4", "--faces", "6", "--max_new_tokens", "8"]
    options += ["--read_timeout", "8"]
    script = [sys.executable, str(repository / "benchmarks/serve.py"), *options]
    done = subprocess.run(script, capture_output=True, text=True, timeout=600, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    counts = {name: int(count) for count, name in re.findall(r"^ +(\d+)  (.+)$", done.stdout, re.MULTILINE)}
    assert sum(count for name, count in counts.items() if name.startswith("right")) == 90
    assert sum(count for name, count in counts.items() if name.startswith("garbage")) == 10
