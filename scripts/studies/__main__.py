"""Study many runs: compare models over seeds, with baselines, in seconds, and by what their decisions are worth.

    python -m scripts.studies <verb> --help     says what a verb does, with an example

{verbs}

    bash scripts/studies/gpu.sh outputs/gpu     the checks that need a GPU, in 12 minutes

scripts/studies/README.md says which study answers which question.
"""

import difflib
import importlib
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "src"), str(ROOT)]

VERBS = {  # verb -> module, what it does
    "run": ("runner", "run all jobs of an experiment, several at once, and make one table of them"),
    "table": ("table", "make that table again, of what is finished"),
    "benchmark": ("bench.command", "measure what skipping saves in seconds, and what the framework costs"),
    "shipped": ("shipped", "test a run as graphs of ONNX, and in 8 bits"),
    "listening": ("listening", "compare models that are always on with static ones and with other gates"),
    "frozen": ("frozen", "compare exits of a frozen encoder with static cuts trained alone"),
    "time-to-accuracy": ("time_to_accuracy", "measure the seconds until a model has learned FSDD"),
    "screenshots": ("screenshots", "take pictures of a dashboard and of reports in a browser"),
}
READERS = ("table",)  # of folders that may come from anywhere


def main(arguments: Sequence[str]) -> None:
    """Run the verb that the first argument names with the others."""
    verb, rest = (arguments[0], arguments[1:]) if arguments else ("--help", [])
    if verb in ("-h", "--help"):
        print((__doc__ or "").format(verbs="\n".join(f"    {name:<18}{told}" for name, (_, told) in VERBS.items())))
        return
    if verb not in VERBS:
        near = difflib.get_close_matches(verb, VERBS, n=1)
        hint = f" Did you mean {near[0]}?" if near else ""
        sys.exit(f"Error: the verb must be one of {', '.join(VERBS)}, got {verb!r}.{hint}")
    from hopscotch.system import continue_in_venv, quiet_end

    continue_in_venv()
    errors = () if verb == "benchmark" else (ValueError, OSError)  # whoever measures wants the whole trace
    from hopscotch.plain import as_written

    with quiet_end(*errors), as_written(" ".join(rest)) if verb in READERS else nullcontext():
        importlib.import_module(f"scripts.studies.{VERBS[verb][0]}").main(rest)


if __name__ == "__main__":
    main(sys.argv[1:])
