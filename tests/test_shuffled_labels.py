"""That nothing leaks: with shuffled training labels the demo falls to chance."""

import json
import subprocess
import sys

import pytest

pytestmark = pytest.mark.slow


def test_shuffled_labels_fall_to_chance(tmp_path):
    arguments = ("--config", "demo.yaml", "--data.shuffle_labels", "true", "--run_dir", "runs/shuffled")
    for command in (("fit", *arguments, "--trainer.max_epochs", "1"), ("test", *arguments)):
        done = subprocess.run(
            [sys.executable, "-m", "explllm", *command], cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr[-3000:]
        assert "labels were shuffled" in done.stdout
    metrics = json.loads((tmp_path / "runs/shuffled/metrics.json").read_text())
    assert metrics["test/accuracy"] == pytest.approx(1 / 7, abs=0.08)
