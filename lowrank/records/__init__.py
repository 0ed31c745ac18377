"""The records of measured points: their store, their schema, their columns."""
