"""Ask a trained model to spend less, or more: one checkpoint, many budgets.

    python scripts/evaluate.py run=outputs/<run> compute.budget=[0.7,0.8,0.9,1.0]

    requested  on validation  on test  million MACs a clip  test accuracy
        0.700          0.702    0.696                 5.11         0.9933
    ...

Other keys of the run's configuration may be changed too, such as data.root=F. The table and its picture go to
outputs/<run>/report/budgets.csv and .png.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "src"))


def main() -> None:
    arguments = sys.argv[1:]
    runs = [argument.removeprefix("run=") for argument in arguments if argument.startswith("run=")]
    if len(runs) != 1 or "--help" in arguments:
        print(__doc__)
        sys.exit(0 if "--help" in arguments else 2)
    from hopscotch.evaluate import evaluate_budgets  # and with it torch
    from hopscotch.run import quiet

    quiet()
    try:
        evaluate_budgets(Path(runs[0]), [argument for argument in arguments if not argument.startswith("run=")])
    except ValueError as error:
        sys.exit(f"Error: {error}")
    print(Path(runs[0]) / "report" / "budgets.csv")


if __name__ == "__main__":
    main()
