"""Folders of `transformers`: weights, config, tokenizer and model card."""
