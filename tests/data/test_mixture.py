from collections import Counter

import pytest

from explllm.core.errors import ConfigError
from explllm.data.mixture import BatchSampler, Mixture, SinglePass, accumulation, balanced_counts, mixture_shares


def mix(fer_rows, cot_rows, fer_share, *options, **more):
    return Mixture({"fer": fer_rows, "cot": cot_rows}, mixture_shares(fer_share), *options, **more)


def test_three_to_one_as_the_released_list():
    plan = mix(range(10), range(10), 0.75)
    draws = plan.epoch(0)
    assert Counter(draw.kind for draw in draws) == {"fer": 30, "cot": 10}
    assert set(Counter(d.row for d in draws if d.kind == "fer").values()) == {3}
    assert set(Counter(d.row for d in draws if d.kind == "cot").values()) == {1}


@pytest.mark.parametrize("share", [0.0, 0.1, 0.25, 0.5, 0.67, 0.75, 0.8, 0.9, 1.0])
def test_exact_share_in_every_stretch(share):
    plan = mix(range(97), range(97), share)
    draws = plan.epoch(3)
    assert len(draws) == len(plan)
    cots = [draw.kind == "cot" for draw in draws]
    assert sum(cots) == (0 if share == 1 else 97)
    assert sum(cots) / len(cots) == pytest.approx(1 - share, abs=1 / len(cots))
    for start in range(0, len(draws) - 20, 7):
        assert abs(sum(cots[start : start + 20]) - 20 * sum(cots) / len(cots)) <= 1
    counts = Counter(draw.row for draw in draws if draw.kind == "fer").values()
    assert max(counts, default=0) - (min(counts) if len(counts) == 97 else 0) <= 1


def test_rows_without_chains_of_thought_come_as_fer_only():
    draws = mix(range(20), range(5), 0.75).epoch(0)
    assert {draw.row for draw in draws if draw.kind == "cot"} == set(range(5))
    assert Counter(draw.kind for draw in draws) == {"fer": 15, "cot": 5}


def test_epochs_differ_and_repeat():
    plan = mix(range(50), range(50), 0.75, seed=7)
    assert plan.epoch(0) == mix(range(50), range(50), 0.75, seed=7).epoch(0)
    assert plan.epoch(0) != plan.epoch(1)
    assert plan.epoch(0) != mix(range(50), range(50), 0.75, seed=8).epoch(0)
    seeds = [draw.seed for epoch in range(5) for draw in plan.epoch(epoch)]
    assert len(set(seeds)) == len(seeds)


@pytest.mark.parametrize("world", [1, 2, 4])
def test_ranks_share_each_global_batch(world):
    plan = mix(range(64), range(64), 0.75)
    samplers = [BatchSampler(plan, 32, 4, rank, world) for rank in range(world)]
    per_rank = [list(sampler) for sampler in samplers]
    assert {len(batches) for batches in per_rank} == {len(samplers[0])}
    draws = plan.epoch(0)
    steps = samplers[0].accumulation
    for window in range(len(draws) // 32):
        got = [d for batches in per_rank for b in batches[window * steps : (window + 1) * steps] for d in b]
        assert sorted(got) == sorted(draws[window * 32 : (window + 1) * 32])
    # 24 FER and 8 CoT of each 32 fill micro-batches of 4 without mixing.
    assert all(len({draw.kind for draw in batch}) == 1 for batches in per_rank for batch in batches)


def test_chains_of_thought_of_similar_length_share_a_micro_batch():
    lengths = {row: 7 * row % 64 for row in range(64)}
    plain = list(BatchSampler(mix(range(64), range(64), 0.5), 32, 4))
    grouped = list(BatchSampler(mix(range(64), range(64), 0.5, lengths=lengths), 32, 4))
    for start in range(0, len(plain), 8):
        assert grouped[start : start + 4] == plain[start : start + 4]  # FER
        cots = [[draw for batch in batches[start + 4 : start + 8] for draw in batch] for batches in (grouped, plain)]
        assert sorted(cots[0]) == sorted(cots[1])
        assert [lengths[draw.row] for draw in cots[0]] == sorted(lengths[draw.row] for draw in cots[1])


def test_the_last_incomplete_batch_is_left_out():
    sampler = BatchSampler(mix(range(10), range(10), 0.75), 16, 8)
    assert len(list(sampler)) == len(sampler) == 4


def test_resumes_in_the_middle_of_an_epoch():
    plan = mix(range(40), range(40), 0.75)
    whole = BatchSampler(plan, 16, 4)
    whole.set_epoch(2)
    batches = list(whole)
    resumed = BatchSampler(plan, 16, 4)
    resumed.restore_position(2, 5)
    resumed.set_epoch(2)  # as Lightning does after loading the state
    assert list(resumed) == batches[5:]
    assert list(resumed) == batches  # the skip holds for one iteration only


def test_single_pass():
    plan = SinglePass([3, 5, 8], "caption", seed=1)
    assert sorted(draw.row for draw in plan.epoch(0)) == [3, 5, 8]
    assert {draw.kind for draw in plan.epoch(0)} == {"caption"}


def test_any_number_of_kinds():
    shares = mixture_shares(0.75, {"fer": 4, "units": 2, "reasoning": 1, "unit_state": 1})
    plan = Mixture({kind: range(12) for kind in shares}, shares)
    draws = plan.epoch(0)
    # The rarest kinds contain each face once.
    assert Counter(draw.kind for draw in draws) == {"fer": 48, "units": 24, "reasoning": 12, "unit_state": 12}
    for kind in ("reasoning", "unit_state"):
        assert sorted(draw.row for draw in draws if draw.kind == kind) == list(range(12))
    # Every stretch of 8 conversations has the mixture's ratio, to within one of each kind.
    for start in range(0, 96, 8):
        counts = Counter(draw.kind for draw in draws[start : start + 8])
        assert all(abs(counts[kind] - 8 * share) <= 1 for kind, share in shares.items())
    sampler = BatchSampler(plan, 32, 8)
    assert "mixture" in sampler.resume_requirements()
    assert "mixture" not in BatchSampler(mix(range(64), range(64), 0.5), 32, 8).resume_requirements()
    with pytest.raises(ConfigError, match=r"names 'smile'. Use fer, cot, unit_state"):
        mixture_shares(0.75, {"smile": 1})
    with pytest.raises(ConfigError, match="`data.mixture` is"):
        mixture_shares(0.75, {"fer": -1, "cot": 2})
    with pytest.raises(ConfigError, match="contains unit_state, and no training row allows"):
        Mixture({"fer": range(4)}, shares)


def test_errors():
    with pytest.raises(ConfigError, match=r"no training row has one.*fer_share"):
        mix(range(4), [], 0.75)
    with pytest.raises(ConfigError, match="`data.fer_share` is 1.5"):
        mix(range(4), range(4), 1.5)
    with pytest.raises(
        ConfigError, match="`data.batch_size` 128 is not a multiple of `data.micro_batch_size` 12 x 2 devices"
    ):
        accumulation(128, 12, 2)
    with pytest.raises(ConfigError, match="`data.batch_size` 128 is larger than an epoch of 16 samples"):
        BatchSampler(mix(range(4), range(4), 0.75), 128, 16)
    with pytest.raises(ConfigError, match="`data.batch_size` -4 is not a multiple of `data.micro_batch_size` 4[.]"):
        accumulation(-4, 4, 1)


def test_class_balance():
    classes = {row: "Neutral" if row < 64 else "Fear" if row < 80 else "Contempt" for row in range(84)}
    shares = {"none": (64, 16, 4), "sqrt": (48, 24, 12), "uniform": (28, 28, 28)}
    for balance, expected in shares.items():
        plan = mix(range(84), range(84), 0.75, 0, classes, balance)
        for epoch in range(2):
            samples = plan.epoch(epoch)
            assert len(samples) == 4 * 84 == len(plan)
            for kind, times in (("cot", 1), ("fer", 3)):
                counts = Counter(classes[sample.row] for sample in samples if sample.kind == kind)
                assert tuple(counts[name] for name in ("Neutral", "Fear", "Contempt")) == tuple(
                    times * count for count in expected
                )
            # Rows of a class take turns.
            rows = Counter(sample.row for sample in samples if sample.kind == "fer")
            for name in counts:
                of_class = [rows[row] for row in classes if classes[row] == name]
                assert max(of_class) - min(of_class) <= 1
        assert plan.epoch(0) == mix(range(84), range(84), 0.75, 0, classes, balance).epoch(0) != plan.epoch(1)
    # Questions about single units are possible about rows without an expression too.
    kinds = {"fer": list(classes), "unit_state": [*classes, 84, 85]}
    plan = Mixture(kinds, {"fer": 0.5, "unit_state": 0.5}, 0, classes, "uniform")
    rows = Counter(sample.row for sample in plan.epoch(0) if sample.kind == "unit_state")
    assert rows[84] + rows[85] == pytest.approx(rows.total() / 4, abs=1)
    for total in (0, 1, 10, 999):
        assert sum(balanced_counts({"a": 5, "b": 2, "c": 9}, total, "sqrt").values()) == total
