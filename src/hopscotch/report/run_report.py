"""The report of a run: `report/index.html`, a page that needs nothing but a browser, and `README.md`, a model card."""

from pathlib import Path

from hopscotch.plain import refuse_links
from hopscotch.report.model_card import render_card
from hopscotch.report.run_folder import RunFolder
from hopscotch.report.run_page import render_page
from hopscotch.report.run_story import tell
from hopscotch.report.sounds import Sounds
from hopscotch.report.story import Text

PAGE = Path("report") / "index.html"
CARD = "README.md"


def write_report(run: RunFolder, sounds: Sounds | None, why_silent: str = "") -> None:
    """Both files; `why_silent` is said on the page where `sounds` is None."""
    title = f"{(run.config.get('model') or {}).get('name', 'run')}: {run.path.absolute().name}"
    refuse_links(run.path, [PAGE.as_posix(), CARD])
    top, sections = tell(run)
    heard = [Text(why_silent)] if why_silent and run.clips else []
    (run.path / PAGE).parent.mkdir(exist_ok=True)
    (run.path / PAGE).write_text(render_page(title, [*top, *heard], sections, sounds), encoding="utf-8")
    card = Text(f"With pictures and sound: {PAGE.as_posix()}.")
    (run.path / CARD).write_text(render_card(title, [*top, card], sections, run.path), encoding="utf-8")
