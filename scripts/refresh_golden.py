"""Write the golden training losses of tests/golden again after an intended change.

    python scripts/refresh_golden.py

    dense: unchanged
    skip_layer: changed, by up to 2.1e-02
    ...

Say in the commit why they changed.
"""

import argparse
import math
import os
import sys
import tempfile
import warnings
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"  # as in the tests
ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "src")]

from hopscotch.system import continue_in_venv  # noqa: E402

continue_in_venv()

from hopscotch.report.progress import quiet_lightning  # noqa: E402
from tests.test_golden import GOLDEN, MODELS, TOLERANCE, lines, training_losses  # noqa: E402
from tests.tiny import write_tones  # noqa: E402


def kept(path: Path) -> list[float]:
    return [float(word) for word in path.read_text(encoding="utf-8").split()[1::2]] if path.exists() else []


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    quiet_lightning()
    warnings.simplefilter("ignore")
    GOLDEN.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        tones = write_tones(Path(folder) / "tones")
        for model in MODELS:
            path = GOLDEN / f"{model}.txt"
            before, losses = kept(path), training_losses(model, tones, Path(folder))
            change = max((abs(new / old - 1) for old, new in zip(before, losses, strict=False)), default=math.inf)
            if change > TOLERANCE:
                path.write_text(lines(losses), encoding="utf-8")
            print(f"{model}: {f'changed, by up to {change:.1e}' if change > TOLERANCE else 'unchanged'}", flush=True)


if __name__ == "__main__":
    main()
