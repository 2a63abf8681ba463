"""Sphinx's settings: MyST pages, the furo theme, and two extensions of our own in `_ext`."""

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
sys.path[:0] = [str(HERE / "_ext"), str(ROOT / "src")]

project = "Hopscotch"
author = "The Hopscotch authors"
project_copyright = "The Hopscotch authors, Apache-2.0"

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "config_reference", "api_reference"]
exclude_patterns = ["_build"]
smartquotes = False  # `--cfg` in a comment keeps its two dashes
html_theme = "furo"
html_title = "Hopscotch"

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3

autodoc_inherit_docstrings = False  # those of torch and Lightning are not in our form
autodoc_member_order = "bysource"
autodoc_default_options = {"members": True, "show-inheritance": True}
napoleon_google_docstring = True
napoleon_numpy_docstring = False
