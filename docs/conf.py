"""Sphinx's settings: `tox -e docs` builds the site into build/site.

Neither the build nor the pages need a network: no script, style, font or inventory is
fetched, and formulas are MathML.
"""

from __future__ import annotations

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path += [str(HERE / "_extensions"), str(HERE.parent / "tools")]

import numbattn  # noqa: E402

project = "numbattn"
author = "the numbattn developers"
copyright = author  # noqa: A001
version = release = numbattn.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "numpydoc",
    "sphinx_design",
    "mathml",
    "pages",
    "public",
]
exclude_patterns = ["_build"]
nitpicky = True
default_role = "public"  # `name` is a link where there is such a name

myst_enable_extensions = ["colon_fence", "dollarmath"]
myst_heading_anchors = 4
# what `tox -e site` and `tox -e history` put beside these pages
myst_url_schemes = {
    "http": None,
    "https": None,
    "mailto": None,
    "site": "{{path}}",
}

autosummary_generate = False  # the directive `public` lists all names
autodoc_typehints = "none"  # numpydoc's sections say it in words
autodoc_class_signature = "mixed"
numpydoc_show_class_members = False
toc_object_entries_show_parents = "hide"

html_theme = "pydata_sphinx_theme"
html_title = "numbattn"
html_math_renderer = "mathml"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_sidebars = {"index": [], "benchmarks": []}  # they have no pages below
html_show_sourcelink = False
html_copy_source = False
html_context = {"default_mode": "auto"}  # without it the first page logs an error
html_favicon = "icon.svg"
html_theme_options = {
    "navbar_end": ["theme-switcher"],
    "footer_start": ["copyright"],
    "footer_end": [],
    "secondary_sidebar_items": ["page-toc"],
    "show_toc_level": 2,
    "navigation_with_keys": False,
}
