import numpy as np
import pytest
import torch
from sklearn.metrics import f1_score

from explllm.core.action_units import BP4D_12, DISFA_8, NAMES
from explllm.core.errors import ConfigError
from explllm.core.facs import facs_set
from explllm.metrics.facs import FacsF1, facs_intensities


@pytest.mark.parametrize(
    ("name", "numbers", "missing"),
    [("disfa8", DISFA_8, {6, 25}), ("bp4d12", BP4D_12, {6, 7, 14, 15, 23, 24})],
)
def test_equals_scikit_learn(name, numbers, missing):
    random = np.random.default_rng(1)
    units = random.uniform(size=(300, 24)) ** 3
    truth = random.uniform(size=(300, len(numbers))) < 0.3
    metric = FacsF1(name, active_from=0.4)
    for start in range(0, 300, 77):
        metric.update(torch.tensor(units[start : start + 77]), torch.tensor(truth[start : start + 77]))
    metrics = metric.compute()
    made_of = {  # by hand
        1: ["Left Brow Raise", "Right Brow Raise"],
        2: ["Left Brow Raise", "Right Brow Raise"],
        4: ["Left Brow Lower", "Right Brow Lower"],
        9: ["Nose Wrinkle"],
        10: ["Upper Lip Raise"],
        12: ["Left Lip Corner Pull", "Right Lip Corner Pull"],
        17: ["Chin Raise"],
        26: ["Jaw Drop"],
    }
    expected = {}
    for place, number in enumerate(numbers):
        if number in missing:
            assert metrics["f1"][f"AU{number}"] is None
            continue
        active = units[:, [NAMES.index(unit) for unit in made_of[number]]].max(1) >= 0.4
        expected[f"AU{number}"] = f1_score(truth[:, place], active)
        assert metrics["f1"][f"AU{number}"] == pytest.approx(expected[f"AU{number}"])
        assert metrics["active"][f"AU{number}"] == truth[:, place].sum()
    assert metrics["missing"] == [f"AU{number}" for number in numbers if number in missing]
    assert metrics["mean_over"] == list(expected)
    # The mean is over the units that there are: a missing one is neither 0 nor counted.
    assert metrics["mean_f1"] == pytest.approx(np.mean(list(expected.values()))) and metrics["faces"] == 300


def test_one_side_is_enough_and_what_feafa_lacks_is_no_number():
    units = torch.zeros(1, 24)
    units[0, NAMES.index("Right Lip Corner Pull")] = 0.7
    found = facs_intensities(units, facs_set("disfa8"))[0]
    assert found[DISFA_8.index(12)] == pytest.approx(0.7)
    assert found.isnan().tolist() == [number in (6, 25) for number in DISFA_8]


def test_a_unit_that_neither_occurs_nor_is_found_has_no_f1():
    metric = FacsF1("disfa8")
    units = torch.zeros(4, 24)
    units[0, NAMES.index("Jaw Drop")] = 1
    truth = torch.zeros(4, 8, dtype=torch.int)
    truth[:2, DISFA_8.index(26)] = 1
    metric.update(units, truth)
    metrics = metric.compute()
    assert metrics["f1"]["AU26"] == pytest.approx(2 / 3) and metrics["f1"]["AU12"] is None
    assert metrics["mean_over"] == ["AU26"] and metrics["mean_f1"] == pytest.approx(2 / 3)
    nothing = FacsF1("bp4d12")
    nothing.update(torch.zeros(2, 24), torch.zeros(2, 12))
    assert nothing.compute()["mean_f1"] is None


def test_sets_that_there_are_not():
    with pytest.raises(ConfigError, match="Use one of disfa8, bp4d12"):
        FacsF1("disfa")
