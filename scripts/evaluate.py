"""Evaluate a trained model on its own test clips or others, in noise, and at other compute budgets.

    python scripts/evaluate.py run=outputs/<run>              the test of the run again, with tables and figures
    python scripts/evaluate.py run=outputs/<run> compute.budget=[0.7,0.8,0.9,1.0]
                                                              one checkpoint, many budgets
    python scripts/evaluate.py run=outputs/<run> snr=[20,10,5,0]
                                                              in noise at these SNRs in dB; always the same noise
    python scripts/evaluate.py run=outputs/<run> data=folder data.root=my_clips
                                                              other clips of the same classes, from any conf/data
    python scripts/evaluate.py run=outputs/<run> data=fsdd data.root=F data.split=speaker data.test_speaker=lucas
    python scripts/evaluate.py run=outputs/<run> ckpt=outputs/<run>/checkpoints/last.ckpt out=my_folder
                                                              another checkpoint; another folder for the results

    One checkpoint, many budgets
    condition  requested  on validation  on test  million MACs  accuracy  macro F1
    clean          0.700          0.702    0.696          5.11    0.9933    0.9933
    ...

Budgets and noise combine: every budget without noise, then at every level. Budgets are fractions of the dense compute,
met on validation clips as closely as the model can; a model that makes no decisions refuses them. data=folder tests a
tenth of the clips unless it has train/, val/ and test/; data.test_fraction=0.9 data.val_fraction=0.05 tests more.
Other keys of the run's configuration may be changed too: data.batch_size=64, trainer.accelerator=cpu.

A run folder executes no code. trust=<module> allows the classes of a module of yours, for a run that was trained with
one.

Results go to outputs/<run>/report/evaluation/: clips.csv, metrics.json, per_class.csv and .md, confusion.png,
conditions.csv and its figure. The curve of compute.budget (budgets.csv and .png) goes there too, or, for the best
checkpoint on the run's own clips, to outputs/<run>/report/ for the run's page. out= names another folder for all of
them. The last line printed is the folder.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "src"), str(ROOT)]


def main() -> None:
    words = sys.argv[1:]
    if not words or {"--help", "-h"} & set(words):
        print(__doc__)
        sys.exit(0 if words else 2)
    from lightning.fabric.utilities.exceptions import MisconfigurationException  # imports torch

    from hopscotch.evaluate import evaluate, parse
    from hopscotch.plain import sentence, shown
    from hopscotch.run import quiet
    from hopscotch.system import keep_freed_memory

    keep_freed_memory()
    quiet()
    try:
        folder = evaluate(**parse(words))
    except (ValueError, OSError, MisconfigurationException) as error:
        sys.exit(f"Error: {sentence(error)}")
    except KeyboardInterrupt:
        sys.exit(130)
    print(shown(folder))


if __name__ == "__main__":
    from hopscotch.system import continue_in_venv

    continue_in_venv()
    main()
