"""A mirror of the hub made in a test: tiny models of transformers with heads, their processors."""

from pathlib import Path

import torch
from text_mirror import NEGATIVE, NEUTRAL, POSITIVE
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import BertConfig, PreTrainedTokenizerFast, ViTConfig, ViTImageProcessorPil

TAGS = ("O", "B-GOOD", "I-GOOD", "B-BAD", "I-BAD")


def masked_tokenizer() -> PreTrainedTokenizerFast:
    """Whole words, and "a" and "film" as two tokens of the word "a-film"."""
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    words = [*special, *POSITIVE, *NEGATIVE, *NEUTRAL, "-"]
    vocabulary = {word: number for number, word in enumerate(words)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )


def save(folder: Path, model_class, config, *processors_of) -> None:
    """A random model of a config, which is the same each time, and its processors."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model_class(config).save_pretrained(folder)
    for processor in processors_of:
        processor.save_pretrained(folder)


def bert_config(**options) -> BertConfig:
    return BertConfig(
        vocab_size=len(masked_tokenizer()),
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=32,
        initializer_range=0.5,
        **options,
    )


def vit_config(**options) -> ViTConfig:
    return ViTConfig(
        image_size=16,
        patch_size=8,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        initializer_range=0.5,
        **options,
    )


def image_processor(size: int = 16) -> ViTImageProcessorPil:
    return ViTImageProcessorPil(size={"height": size, "width": size})
