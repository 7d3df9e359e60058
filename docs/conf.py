"""Sphinx's configuration of the documentation site: `make docs` builds it. `docs/index.md` has the navigation."""

from sphinx.application import Sphinx

import propel_assets

project = "propel-assets"
author = "the authors of propel-assets"
version = release = propel_assets.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_copybutton"]
exclude_patterns = ["_build"]
default_role = "literal"  # docstrings mark code by single backticks

myst_heading_anchors = 3  # links to headings, as a forge makes them
myst_enable_extensions = ["attrs_block"]

autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_member_order = "bysource"

html_theme = "furo"
html_title = f"propel-assets {version}"
html_show_sphinx = False
html_show_copyright = False
html_copy_source = False
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_extra_path = ["lineage.html"]  # linked by marts.md
copybutton_exclude = ".linenos, .gp"

# Pages that include a file of the repository: on a forge, links lead to the file; on the site, to the page.
INCLUDED = {"](../benchmarks/README.md": "](benchmarks.md", "](../CHANGELOG.md": "](changelog.md"}


def link_to_pages(_app: object, _page: str, source: list[str]) -> None:
    """Replace links to included files by links to the pages that include them."""
    for file, page in INCLUDED.items():
        source[0] = source[0].replace(file, page)


def setup(app: Sphinx) -> None:
    """Register the replacement of links."""
    app.connect("source-read", link_to_pages)
