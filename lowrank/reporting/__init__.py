"""From records to curves, tables and figures."""
