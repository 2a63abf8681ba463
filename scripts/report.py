"""Write the report of a finished or running run again: one HTML file and a model card.

    python scripts/report.py run=outputs/<run>

    outputs/<run>/README.md
    outputs/<run>/report/index.html

Every run writes both at its end. If the data have moved: python scripts/report.py run=outputs/<run> data.root=F
A run folder executes no code; trust=<module> allows a data source of yours.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "src"), str(ROOT)]


def main() -> None:
    arguments = sys.argv[1:]
    runs = [argument.removeprefix("run=") for argument in arguments if argument.startswith("run=")]
    if len(runs) != 1 or "--help" in arguments:
        print(__doc__)
        sys.exit(0 if "--help" in arguments else 2)
    from functools import partial

    from hopscotch.plain import as_written, sentence, shown
    from hopscotch.registry import trusted
    from hopscotch.report.run_folder import read_run
    from hopscotch.report.run_page import CARD, PAGE, find_sounds, write_report
    from hopscotch.restore import build_stored_data  # imports torch
    from hopscotch.run import quiet

    quiet()
    folder = Path(runs[0])
    try:
        run = read_run(folder)
        overrides = [argument for argument in arguments if not argument.startswith(("run=", "trust="))]
        build = partial(build_stored_data, file=folder / "config.yaml", trust=trusted(arguments))
        sounds, why_silent = find_sounds(run, build, overrides)
        with as_written(folder):
            write_report(run, sounds, why_silent)
    except (ValueError, OSError) as error:
        sys.exit(f"Error: {sentence(error)}")
    if why_silent:
        print(sentence(why_silent), file=sys.stderr)
    print(shown(folder / CARD))
    print(shown(folder / PAGE))


if __name__ == "__main__":
    from hopscotch.system import continue_in_venv

    continue_in_venv()
    main()
