"""Agreement of intensities, held against SciPy, the papers' own examples, and two processes against one."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from scipy.stats import pearsonr

from explllm.core.action_units import NAMES
from explllm.metrics import au_regression
from explllm.metrics.au_regression import ActionUnitAgreement, action_unit_agreement, agreement_summary, icc_3_1


@pytest.fixture
def faces():
    """200 faces; a tenth of the labels is missing."""
    random = np.random.default_rng(0)
    labels = random.uniform(size=(200, 24)) * (random.uniform(size=(200, 24)) < 0.5)
    estimates = np.clip(0.6 * labels + 0.1 + random.normal(scale=0.15, size=labels.shape), 0, 1)
    labels[random.uniform(size=labels.shape) < 0.1] = np.nan
    return torch.tensor(estimates, dtype=torch.float32), torch.tensor(labels, dtype=torch.float32)


def test_icc_of_shrout_and_fleiss():
    """Their Table 2: six targets, four judges; ICC(3,1) is .71 there (Table 4), .7148 to four places."""
    ratings = torch.tensor([[9, 2, 5, 8], [6, 1, 3, 2], [8, 4, 6, 8], [7, 1, 2, 6], [10, 5, 6, 9], [6, 2, 4, 7]])
    assert float(icc_3_1(ratings)) == pytest.approx(0.7148, abs=5e-5)


def test_worked_by_hand():
    """Labels 0, .5, 1 and estimates .25, .5, .75: means equal, variances 1/6 and 1/24, covariance 1/12."""
    found = action_unit_agreement(torch.tensor([[0.25], [0.5], [0.75]]), torch.tensor([[0.0], [0.5], [1.0]]))
    assert float(found.mae) == pytest.approx(1 / 6)
    assert float(found.pearson) == pytest.approx(1)
    assert float(found.ccc) == pytest.approx((2 / 12) / (1 / 6 + 1 / 24))
    assert float(found.icc) == pytest.approx(0.8)
    # A constant offset is no error of consistency; concordance counts it.
    shifted = action_unit_agreement(torch.tensor([[0.1], [0.6], [1.1]]), torch.tensor([[0.0], [0.5], [1.0]]))
    assert float(shifted.icc) == pytest.approx(1) and float(shifted.ccc) == pytest.approx((2 / 6) / (2 / 6 + 0.01))


def test_equals_references(faces):
    estimates, labels = faces
    metric = ActionUnitAgreement()
    for start in range(0, 200, 33):
        metric.update(estimates[start : start + 33], labels[start : start + 33])
    metrics = metric.compute()
    for place, unit in enumerate(NAMES):
        known = ~labels[:, place].isnan()
        x, y = estimates[known, place].double().numpy(), labels[known, place].double().numpy()
        row = metrics["by_unit"][unit]
        assert row["faces"] == int(known.sum()) < 200
        assert row["mae"] == pytest.approx(np.abs(x - y).mean())
        assert row["pearson"] == pytest.approx(pearsonr(x, y).statistic)
        assert row["icc"] == pytest.approx(float(icc_3_1(torch.tensor(np.stack([x, y], 1)))))
        covariance = np.cov(x, y, ddof=0)[0, 1]
        assert row["ccc"] == pytest.approx(2 * covariance / (x.var() + y.var() + (x.mean() - y.mean()) ** 2))
    for name in ("mae", "icc", "ccc", "pearson"):
        assert metrics[name] == pytest.approx(np.mean([row[name] for row in metrics["by_unit"].values()]))
    assert metrics["left_out"] == metrics["constant_predictions"] == []
    assert metrics == agreement_summary(action_unit_agreement(estimates, labels)) | {
        name: pytest.approx(metrics[name]) for name in ("mae", "icc", "ccc", "pearson", "by_unit") if name != "by_unit"
    } | {"by_unit": metrics["by_unit"]}


def test_units_without_a_correlation_are_left_out_and_named(faces):
    estimates, labels = (values.clone() for values in faces)
    # 0.1 has no exact binary form: the variance of equal numbers comes out as a rounding error.
    labels[:, 0], labels[:, 1], estimates[:, 2] = 0.1, torch.nan, 0.3
    metrics = agreement_summary(action_unit_agreement(estimates, labels))
    assert metrics["left_out"] == list(NAMES[:2])
    assert metrics["constant_predictions"] == [NAMES[2]]
    rows = metrics["by_unit"]
    assert rows[NAMES[0]]["pearson"] is rows[NAMES[0]]["icc"] is rows[NAMES[0]]["ccc"] is None
    assert rows[NAMES[0]]["mae"] is not None and rows[NAMES[1]]["mae"] is None
    # A model that always says the same is not left out: that would make a collapsed one look good.
    assert rows[NAMES[2]]["pearson"] == rows[NAMES[2]]["ccc"] == 0
    assert metrics["pearson"] == pytest.approx(np.mean([row["pearson"] for row in list(rows.values())[2:]]))


def test_no_labels_at_all():
    metrics = agreement_summary(action_unit_agreement(torch.zeros(0, 24), torch.zeros(0, 24)))
    assert metrics["pearson"] is metrics["mae"] is None and metrics["faces"] == 0
    assert len(metrics["left_out"]) == 24


def test_estimates_that_are_not_numbers_show():
    estimates, labels = torch.full((3, 24), torch.nan), torch.rand(3, 24)
    assert agreement_summary(action_unit_agreement(estimates, labels))["pearson"] is None


_TWO = """
import json, os, sys, torch, torch.distributed as distributed
from explllm.metrics.au_regression import ActionUnitAgreement
from explllm.metrics.facs import FacsF1
rank, folder = int(sys.argv[1]), sys.argv[2]
distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
estimates, labels = torch.load(f"{folder}/faces.pt")
agreement, facs = ActionUnitAgreement(), FacsF1("disfa8")
mine = slice(0, 70) if rank == 0 else slice(70, None)
agreement.update(estimates[mine], labels[mine])
facs.update(estimates[mine], (labels[mine, :8].nan_to_num() > 0.3).int())
print(json.dumps([agreement.compute(), facs.compute()]))
"""


def test_states_add_up(faces):
    """As over processes: the sum of two metrics' states is the state of one that has seen all."""
    estimates, labels = faces
    labels[60:, 3] = torch.nan
    parts = [ActionUnitAgreement() for _ in range(2)]
    parts[0].update(estimates[:60], labels[:60])
    parts[1].update(estimates[60:], labels[60:])
    parts[0].merge_state(parts[1])
    found, expected = parts[0].compute(), agreement_summary(action_unit_agreement(estimates, labels))
    for unit, row in expected["by_unit"].items():
        assert found["by_unit"][unit] == pytest.approx(row), unit
    assert found["pearson"] == pytest.approx(expected["pearson"]) and found["faces"] == expected["faces"]


def test_the_state_stays_away_from_devices_without_float64(faces, monkeypatch):
    """As on Apple's GPUs; the device without data stands for theirs, as no such machine is at hand."""
    estimates, labels = faces
    around = torch.nn.ModuleList([ActionUnitAgreement()])
    monkeypatch.setattr(au_regression, "_WITHOUT_FLOAT64", ("meta",))
    metric = around.to("meta")[0]
    metric.update(estimates, labels)
    assert metric.sums.device.type == "cpu" and metric.sums.dtype == torch.float64
    assert metric.compute()["pearson"] == pytest.approx(
        agreement_summary(action_unit_agreement(estimates, labels))["pearson"]
    )
    metric.reset()
    assert not metric.sums.any()
    monkeypatch.undo()
    assert around.to("meta")[0].sums.device.type == "meta"


@pytest.mark.slow
def test_two_processes_find_what_one_finds(faces, tmp_path):
    from explllm.metrics.facs import FacsF1

    estimates, labels = faces
    # In the second process alone, two units are never labeled and one is constant.
    labels[70:, 3], labels[:, 4], labels[:, 5] = torch.nan, torch.nan, 0.1
    torch.save(faces, tmp_path / "faces.pt")
    started = [
        subprocess.Popen([sys.executable, "-c", _TWO, str(rank), str(tmp_path)], stdout=subprocess.PIPE, text=True)
        for rank in range(2)
    ]
    found = [json.loads(process.communicate(timeout=600)[0]) for process in started]
    assert found[0] == found[1]
    facs = FacsF1("disfa8")
    facs.update(estimates, (labels[:, :8].nan_to_num() > 0.3).int())
    expected = agreement_summary(action_unit_agreement(estimates, labels))
    rows, expected_rows = found[0][0].pop("by_unit"), expected.pop("by_unit")
    for unit, row in expected_rows.items():
        assert rows[unit] == pytest.approx(row), unit
    assert found[0][0] == {
        **expected,
        **{name: pytest.approx(expected[name]) for name in ("mae", "icc", "ccc", "pearson")},
    }
    assert expected["left_out"] == [NAMES[4], NAMES[5]]
    assert found[0][1] == facs.compute()
