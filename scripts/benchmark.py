"""Measure what skipping saves in seconds, and what the framework costs, as ratios.

    python scripts/benchmark.py                          everything; routes_long and loop take minutes each
    python scripts/benchmark.py --quick                  fewer rounds: a look, not evidence
    python scripts/benchmark.py --only strides routes    some items
    python scripts/benchmark.py --json rows.json         the rows for a program
    python scripts/benchmark.py --bf16                   in bfloat16: a GPU, where there is one

    SkipAttention, stride 4: share of the promised speed-up, forward   batch 8, time 500, dim 256, heads 4,
    promised 2.27   0.949 (0.835 to 1.096)   >= 0.8   yes   23.18   50.01
    ...

Each figure is a ratio of medians over interleaved rounds (`start`: a difference in seconds), in one process but for
`allocator`, `start`, `predict` and `supply`. A bar fails where the 90 % interval excludes it; the exit code is then 1.
Tables (CSV, Markdown, JSON) go to --out. Nothing else should run on the machine meanwhile.
"""

import argparse
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "src"), str(ROOT)]

ROUNDS, QUICK_ROUNDS = 9, 3


def main() -> None:
    import torch

    from hopscotch.system import keep_freed_memory
    from scripts.studies.bench.suite import ELSEWHERE, ITEMS, check_precision, measure
    from scripts.studies.bench.table import as_json, line, write

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--only", nargs="+", choices=sorted(ITEMS), metavar="ITEM", help=f"{list(ITEMS)}; without it all that can be"
    )
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_ROUNDS} rounds instead of {ROUNDS}")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads (2)")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    parser.add_argument("--device", choices=("cpu", "cuda"), default=device, help="what is measured (what is there)")
    parser.add_argument("--bf16", action="store_true", help=f"in bfloat16, by autocast; not {', '.join(ELSEWHERE)}")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows here, too")
    out = ROOT / "outputs" / f"benchmark_{time.strftime('%Y-%m-%d_%H-%M-%S')}"
    parser.add_argument(
        "--out", type=Path, default=out, metavar="DIR", help="folder for tables (outputs/benchmark_<now>)"
    )
    arguments = parser.parse_args()
    items = arguments.only or [name for name in ITEMS if not (arguments.bf16 and name in ELSEWHERE)]
    if arguments.bf16:
        try:
            check_precision(items)
        except ValueError as error:
            parser.error(str(error))
    if arguments.json is not None:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)  # hours later it is too late to find no folder
    torch.set_num_threads(arguments.threads)
    keep_freed_memory()  # as train.py, evaluate.py and predict.py do
    rows = []
    for item in items:
        rounds = QUICK_ROUNDS if arguments.quick else ROUNDS
        for row in measure(item, rounds, arguments.device, bf16=arguments.bf16):
            rows.append(row)
            print(line(row), flush=True)
        write(rows, arguments.out)
    if arguments.json is not None:
        arguments.json.write_text(as_json(rows), encoding="utf-8")
    print(arguments.out)
    sys.exit(0 if all(row.holds for row in rows) else 1)


if __name__ == "__main__":
    from hopscotch.system import continue_in_venv

    continue_in_venv()
    main()
