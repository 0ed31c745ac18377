"""From records to curves, tables and figures.

Raises:
    MissingExtra: when imported without the extra ``reports``.
"""

from lowrank.files.extras import need

need("figures and tables", "pandas", "matplotlib", "jinja2", "tabulate")
