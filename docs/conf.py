"""How Sphinx builds the site: `make docs`. The reference pages are written anew from what describes itself."""

import sys
from pathlib import Path

import evalkit

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

project = "evalkit"
author = "evalkit authors"
copyright = "evalkit authors, Apache-2.0"
version = release = evalkit.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_copybutton"]
exclude_patterns = ["_build"]
source_suffix = {".md": "markdown"}
root_doc = "index"
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3
smartquotes = False  # what is copied stays what it was
suppress_warnings = ["misc.highlighting_failure"]  # output beneath a command is no shell

autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_format = "short"
napoleon_numpy_docstring = False

html_theme = "furo"
html_title = f"evalkit {release}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
copybutton_prompt_text = "$ "
copybutton_only_copy_prompt_lines = True


def setup(app):  # the name is Sphinx's
    """Write the reference before anything is read, and give plain-text docstrings a form that Sphinx understands."""
    import generate
    from generate import api

    app.connect("builder-inited", lambda app: generate.write(Path(app.srcdir) / "reference"))
    app.connect("autodoc-process-docstring", api.literal_formulas, priority=400)
