"""The benchmark's own arithmetic, and that what it compares computes the same. Nothing is timed here."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from hopscotch.layers.jump import SkipLayer
from hopscotch.layers.stride import LearnedSkip
from scripts.studies.bench import suite, timing
from scripts.studies.bench.attention import MAX_STRIDE, sdpa_masked, sketch_masked
from scripts.studies.bench.clip import peak_megabytes
from scripts.studies.bench.clips import SAMPLE_RATE, write_clips
from scripts.studies.bench.gpu import beside, step_megabytes
from scripts.studies.bench.jumps import RandomRoutes
from scripts.studies.bench.loop import WARM_UP, Between, Stopwatch
from scripts.studies.bench.passes import TRAINING, one_pass, threads
from scripts.studies.bench.table import Row, as_markdown, row, write
from scripts.studies.bench.timing import Ratio, Times, interleave
from tests.tiny import TINY_MODEL


def test_a_ratio_is_that_of_the_medians_and_lies_within_its_interval() -> None:
    seconds = torch.tensor([[2.0, 1.0], [4.0, 2.0], [9.0, 3.0]], dtype=torch.float64)
    ratio = Times(["a", "b"], seconds).ratio("a", "b")
    assert ratio.value == 2.0
    assert ratio.low <= 2.0 <= ratio.high
    assert (ratio.low, ratio.high) != (2.0, 2.0)
    assert Times(["a", "b"], seconds).ratio("a", "a") == Ratio(1.0, 1.0, 1.0)


def test_what_a_case_takes_beyond_another_is_held_to_the_interval_of_its_median() -> None:
    imports = torch.ones(9, dtype=torch.float64)
    step = imports + torch.tensor([1.4, 1.6, 2.3, 2.4, 2.5, 2.6, 2.7, 2.8, 2.9], dtype=torch.float64)
    found = Times(["imports", "step"], torch.stack([imports, step], dim=1)).difference("step", "imports")
    assert found.value == pytest.approx(2.5)
    assert 1.6 < found.low < 2.5 < found.high < 2.9  # one fast round is no evidence


def test_every_round_begins_with_another_case_and_runs_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "SHORTEST", 0.002)  # the calls do nothing: millions of them otherwise
    calls: list[str] = []
    cases = {name: lambda name=name: calls.append(name) for name in "abc"}
    times = interleave(cases, rounds=3)
    assert times.seconds.shape == (3, 3)
    first_calls = [name for i, name in enumerate(calls[6:]) if i == 0 or calls[6 + i - 1] != name]  # repeats folded
    assert "".join(first_calls) == "abcbcacab"


@pytest.mark.parametrize(
    ("ratio", "most", "least", "holds"),
    [
        (1.0, 1.0, None, True),
        (1.01, 1.0, None, False),
        (0.79, None, 0.8, False),
        (0.8, None, 0.8, True),
        (5.0, None, None, True),
    ],
)
def test_a_row_holds_when_its_median_does_however_wide_the_interval(
    ratio: float, most: float | None, least: float | None, holds: bool
) -> None:
    wide = Ratio(ratio, ratio - 0.5, ratio + 0.5)
    assert row("x", wide, (1.0, 1.0), most=most, least=least).holds is holds


def test_the_tables_say_what_fails_and_where_it_was_measured(tmp_path: Path) -> None:
    rows = [Row("slow thing", 1.5, 1.4, 1.6, 1.0, False, 3.0, 2.0, {"time": 100}), row("other", Ratio(1, 1, 1), (1, 1))]
    write(rows, tmp_path)
    kept = json.loads((tmp_path / "table.json").read_text())
    assert [(r["name"], r["ratio"], r["bar"], r["holds"], r["shapes"]) for r in kept] == [
        ("slow thing", 1.5, 1.0, False, {"time": 100}),
        ("other", 1, None, True, {}),
    ]
    assert kept[0]["threads"] == torch.get_num_threads()
    assert "machine" not in kept[0]
    assert "slow thing | time 100 | 1.500 (1.400 to 1.600) | <= 1 | NO | 3.00 | 2.00" in as_markdown(rows)
    assert (tmp_path / "table.csv").read_text().splitlines()[1].startswith("slow thing,time=100,1.5,1.4,1.6,1.0,False")


def test_a_row_says_how_many_threads_it_had_not_how_many_there_are_later() -> None:
    with threads(1):
        alone = row("alone", Ratio(1, 1, 1), (1, 1))
    with threads(2):
        rows = [alone, row("both", Ratio(1, 1, 1), (1, 1))]
    text = as_markdown(rows)
    assert "alone | threads 1 |" in text
    assert "both | threads 2 |" in text
    assert f"torch {torch.__version__}" in text.splitlines()[-1]
    assert "threads" not in text.splitlines()[-1]


def test_bfloat16_is_what_an_item_computes_in_and_its_rows_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    layer, x = nn.Linear(4, 4), torch.ones(2, 4)
    seen = []

    def item(rounds: int, device: str) -> Iterator[Row]:
        step = one_pass(layer, lambda x: seen.append(out := layer(x)) or out, x, TRAINING)
        for _ in range(rounds):
            step()
            with torch.no_grad():
                layer.weight.mul_(2)
        yield row("a step", Ratio(1, 1, 1), (1, 1))

    monkeypatch.setattr(suite, "item", lambda _: item)
    (half,) = suite.measure("item", 2, "cpu", bf16=True)
    (full,) = suite.measure("item", 1, "cpu")
    assert [out.dtype for out in seen] == [torch.bfloat16, torch.bfloat16, torch.float32]
    assert not torch.equal(seen[0], seen[1]), "no step may run with the weights of the one before"
    assert [r.machine["precision"] for r in (half, full)] == ["bfloat16", "float32"]
    assert full.machine["device"] == "CPU"
    with pytest.raises(ValueError, match=r"--bf16 must go without start: they run in processes that stay in float32"):
        suite.check_precision(["strides", "start"])


def test_a_step_of_the_trainer_is_what_the_bare_loops_leave_of_its_time() -> None:
    watch, between = Stopwatch(), Between([], loop=None)  # pyright: ignore[reportArgumentType]
    # Each second a bare step of 0.4, then one of the trainer; five to warm up, in which everything is slower.
    between.begun = [2.0 * i for i in range(WARM_UP)] + [10.0 + i for i in range(4)]
    between.seconds = [1.5] * WARM_UP + [0.4] * 4
    watch.begun = [begun + seconds for begun, seconds in zip(between.begun, between.seconds, strict=True)]
    assert watch.step_seconds(between) == pytest.approx((0.6, 0.4))


def test_the_masked_forms_compute_what_the_packed_one_does() -> None:
    torch.manual_seed(0)
    layer = LearnedSkip(16, 2, MAX_STRIDE).eval()
    x, strides = torch.randn(5, 21, 16), torch.tensor([1, 8, 3, 3, 5])
    packed = layer.attend(x, None, layer.choose(x)._replace(strides=strides))
    torch.testing.assert_close(sdpa_masked(layer.attention, x, strides), packed, rtol=0, atol=1e-5)
    torch.testing.assert_close(sketch_masked(layer.attention, x, strides), packed, rtol=0, atol=1e-5)


def test_random_routes_reach_from_the_floor_to_every_layer() -> None:
    torch.manual_seed(0)
    block = SkipLayer(16, 2, 6, inner="transformer").eval()
    policy = block.policy = RandomRoutes(32, 6, max_jump=3)
    x = torch.randn(32, 9, 16)
    shares = []
    for policy.going_on in (0.0, 0.5, 1.0):
        shares.append(block.run(x)[1].visited.float().mean().item())
    assert shares[0] == 0.5
    assert 0.55 < shares[1] < 0.95
    assert shares[2] == 1.0


def test_the_clips_are_the_same_every_time_and_about_as_long_as_digits(tmp_path: Path) -> None:
    first, second = (write_clips(tmp_path / name, num_clips=40) for name in ("a", "b"))
    files = sorted(path.relative_to(first) for path in first.rglob("*.wav"))
    assert len(files) == 40
    assert all((first / file).read_bytes() == (second / file).read_bytes() for file in files)
    seconds = sorted((first / file).stat().st_size / 2 / SAMPLE_RATE for file in files)
    assert 0.3 < seconds[20] < 0.55


@pytest.mark.filterwarnings("ignore:.*Profiler clears events")
def test_the_peak_is_what_a_call_holds_at_once() -> None:
    def call() -> torch.Tensor:
        first = torch.zeros(1024, 1024)  # 4 MiB
        second = first + 1
        del first
        return second * 2  # the first is free again: two at a time

    assert peak_megabytes(call) == pytest.approx(8.0, abs=0.1)


@pytest.mark.filterwarnings("ignore:.*Profiler clears events")
def test_a_training_step_holds_more_memory_for_more_clips() -> None:
    some, twice = (step_megabytes("dense", "cpu", bf16=False, batch=size, changes=TINY_MODEL) for size in (32, 64))
    assert twice / some == pytest.approx(2.0, rel=0.1)


def test_rows_of_a_gpu_stand_next_to_those_of_the_cpu_where_they_measured_the_same(tmp_path: Path) -> None:
    shared = {"batch": 8, "promised": 2.27}
    for folder, value, other in (("cpu", 0.9, "alone"), ("gpu", 1.2, "other")):
        same = Row("a thing", value, 0.8, 1.3, 1.0, False, 3.0, 2.0, {**shared, "promised": value})
        write([same, Row(other, 2.0, 1.0, 3.0, None, False, 4.0, 2.0)], tmp_path / folder)
    cpu, gpu = (json.loads((tmp_path / folder / "table.json").read_text()) for folder in ("cpu", "gpu"))
    assert beside(cpu, gpu) == [
        ["a thing", "batch=8", "<= 1", "0.900 (0.800 to 1.300)", "yes", "1.200 (0.800 to 1.300)", "NO", "3.00", "3.00"],
        ["alone", "", "", "2.000 (1.000 to 3.000)", "", "", "", "4.00", ""],
        ["other", "", "", "", "", "2.000 (1.000 to 3.000)", "", "", "4.00"],
    ]
    assert beside([], []) == []
