import pytest
from scipy import stats

from explllm.metrics.significance import EXACT_UP_TO, holm, mcnemar


@pytest.mark.parametrize("only_first, only_second", [(0, 0), (1, 0), (0, 6), (5, 5), (12, 3), (480, 520), (430, 500)])
def test_exact(only_first, only_second):
    found = mcnemar(only_first, only_second)
    total = only_first + only_second
    expected = stats.binomtest(only_first, total, 0.5).pvalue if total else 1.0
    assert found.p_value == pytest.approx(expected) and found.method == "exact"
    assert found == mcnemar(only_second, only_first)


def test_many_discordant_faces():
    found = mcnemar(560, 441)
    assert EXACT_UP_TO < 560 + 441 and found.method == "continuity-corrected"
    assert found.p_value == pytest.approx(stats.chi2.sf((119 - 1) ** 2 / 1001, 1))
    assert found.p_value == pytest.approx(stats.binomtest(560, 1001, 0.5).pvalue, rel=0.05)
    assert mcnemar(501, 501).p_value == 1.0


def test_holm():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([0.02]) == [0.02]
    assert holm([]) == []
