"""Any model of transformers for any dataset of the hub: its inputs and what is wanted of it."""
