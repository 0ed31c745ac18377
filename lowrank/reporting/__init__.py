"""Curves, tables and figures of records.

Raises:
    MissingExtra: when imported without the extra ``reports``.
"""

from lowrank.files.extras import need

need("figures and tables", "pandas", "matplotlib", "tabulate")
