"""Ten training losses of every model, kept in tests/golden: a change of theirs is a change of meaning.

python scripts/refresh_golden.py        # where the change was meant; say why in the commit
"""

from pathlib import Path

import pytest

from tests import tiny
from tests.tiny import Watch, fit, tiny_config

GOLDEN = Path(__file__).parent / "golden"
TOLERANCE = 1e-4  # relative; processors differ in the last bits
NUM_STEPS = 10
MODELS = sorted(path.stem for path in GOLDEN.glob("*.txt"))


def training_losses(model: str, tones: Path, run: Path) -> list[float]:
    """The task loss of each of the first steps on the tones, by the default recipe."""
    watch = Watch()
    limits = ("trainer.max_epochs=3", f"trainer.max_steps={NUM_STEPS}", "trainer.limit_val_batches=0")
    fit(tiny_config(tones, run, f"model={model}", *limits), watch)
    return watch.losses


def lines(losses: list[float]) -> str:
    return "".join(f"{step} {loss:.6f}\n" for step, loss in enumerate(losses))


@pytest.mark.parametrize("model", MODELS)
def test_losses_are_as_they_were(model: str, tones: Path, tmp_path: Path) -> None:
    kept = (GOLDEN / f"{model}.txt").read_text(encoding="utf-8").split()
    assert [int(step) for step in kept[::2]] == list(range(NUM_STEPS))
    found = training_losses(model, tones, tmp_path)
    assert found == pytest.approx([float(loss) for loss in kept[1::2]], rel=TOLERANCE)


def test_every_golden_file_has_its_model() -> None:
    assert set(MODELS) <= set(tiny.MODELS)
    assert len(MODELS) == len(list(GOLDEN.iterdir())) >= 7
