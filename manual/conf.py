"""Settings of Sphinx for the site."""

import os
from pathlib import Path

project = "lowrank"
author = "the authors of lowrank"
copyright = ""
extensions = [
    *("myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon"),
    *("manual.formulas", "manual.docstrings"),
]
root_doc = "index"
# Folders of results have pages that nothing but their links leads to.
suppress_warnings = ["toc.not_included"]

# Pages are Markdown as GitHub reads it.
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 4
myst_dmath_double_inline = True

# Notebooks are run. Those that read records are if LOWRANK_RUNS says where there are some, so that
# what earlier sweeps have left does not matter; else only their code is shown.
_ROOT = Path(__file__).parents[1]
_READ = "LOWRANK_RUNS"
nb_execution_mode = "force"
nb_execution_timeout = 300
nb_execution_raise_on_error = True
nb_merge_streams = True
nb_render_markdown_format = "myst"
nb_execution_excludepatterns = [
    str(path.relative_to(_ROOT))
    for path in _ROOT.glob("notebooks/*.ipynb")
    if _READ in path.read_text(encoding="utf-8") and _READ not in os.environ
]

# Docstrings set code in single backticks; what is a public name is a link.
default_role = "py:obj"
autodoc_default_options = {"members": True, "member-order": "bysource"}
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
napoleon_numpy_docstring = False
napoleon_use_rtype = False
napoleon_use_ivar = True
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 80
add_module_names = False

html_theme = "furo"
html_title = "lowrank"
html_static_path = ["static"]
html_css_files = ["manual.css"]
html_copy_source = False
html_show_copyright = False
html_show_sphinx = False
pygments_style = "default"
pygments_dark_style = "github-dark"
