"""Measure what skipping saves in seconds, and what the framework costs, as ratios.

    python -m scripts.studies benchmark                          everything; routes_long and loop take minutes each
    python -m scripts.studies benchmark --quick                  fewer rounds: a look, not evidence
    python -m scripts.studies benchmark --only strides routes    some items
    python -m scripts.studies benchmark --json rows.json         the rows for a program
    python -m scripts.studies benchmark --bf16                   in bfloat16: a GPU, where there is one

    SkipAttention, stride 4: share of the promised speed-up, forward   batch 8, time 500, dim 256, heads 4,
    promised 2.27   0.949 (0.835 to 1.096)   >= 0.8   yes   23.18   50.01
    ...

Each figure is a ratio of medians over interleaved rounds (`start`: a difference in seconds), in one process except for
`allocator`, `start`, `predict` and `supply`. A row holds when this ratio is on the right side of its bar; the 90 %
interval says how sure that is. The exit code is 1 if a row does not hold. Tables (CSV, Markdown, JSON) go to --out.
Nothing else should run on the machine meanwhile.
"""

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from hopscotch.system import PROJECT_ROOT, keep_freed_memory
from scripts.studies.bench import suite

ROUNDS, QUICK_ROUNDS = 9, 3


def main(words: Sequence[str]) -> None:
    """Run `python -m scripts.studies benchmark`."""
    parser = argparse.ArgumentParser(
        "python -m scripts.studies benchmark", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--only",
        nargs="+",
        choices=sorted(suite.ITEMS),
        metavar="ITEM",
        help=f"{list(suite.ITEMS)}; without it all that can be",
    )
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_ROUNDS} rounds instead of {ROUNDS}")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads (2)")
    parser.add_argument("--device", choices=("cpu", "cuda"), help="what is measured (default: cuda if available)")
    parser.add_argument(
        "--bf16", action="store_true", help=f"in bfloat16, by autocast; not {', '.join(suite.ELSEWHERE)}"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows here, too")
    out = PROJECT_ROOT / "outputs" / f"benchmark_{time.strftime('%Y-%m-%d_%H-%M-%S')}"
    parser.add_argument(
        "--out", type=Path, default=out, metavar="DIR", help="folder for tables (outputs/benchmark_<now>)"
    )
    arguments = parser.parse_args(words)
    import torch  # --help does without it

    from scripts.studies.bench.table import as_json, line, write

    device = arguments.device or ("cuda" if torch.cuda.is_available() else "cpu")
    items = arguments.only or [name for name in suite.ITEMS if not (arguments.bf16 and name in suite.ELSEWHERE)]
    if arguments.bf16:
        try:
            suite.check_precision(items)
        except ValueError as error:
            parser.error(str(error))
    if arguments.json is not None:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)  # hours later it is too late to find no folder
    torch.set_num_threads(arguments.threads)
    keep_freed_memory()  # as train.py, evaluate.py and predict.py do
    rows = []
    for item in items:
        rounds = QUICK_ROUNDS if arguments.quick else ROUNDS
        for row in suite.measure(item, rounds, device, bf16=arguments.bf16):
            rows.append(row)
            print(line(row), flush=True)
        write(rows, arguments.out)
    if arguments.json is not None:
        arguments.json.write_text(as_json(rows), encoding="utf-8")
    print(arguments.out)
    sys.exit(0 if all(row.holds for row in rows) else 1)
