"""A mirror of the hub made in a test: tiny models with tokenizers of their own, and texts."""

from pathlib import Path

import torch
from datasets import Dataset
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    BertConfig,
    BertModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

WORDS = (
    "the café naïve cat sat on a mat, and “slept”; then it ran to see two dogs by the sea".split()
)
POSITIVE, NEGATIVE, NEUTRAL = ("good", "fine", "warm"), ("bad", "dull", "cold"), ("a", "film", "is")


def rows(count: int, seed: int = 0) -> list[str]:
    """Rows of random words, some with white space at their ends and some with none between."""
    generator = torch.Generator().manual_seed(seed)
    made = []
    for _ in range(count):
        length = int(torch.randint(3, 40, (), generator=generator))
        picked = torch.randint(len(WORDS), (length,), generator=generator).tolist()
        made.append("  " * (length % 3) + " ".join(WORDS[i] for i in picked) + "\n" * (length % 2))
    return made


def byte_tokenizer(bos: str | None = "<s>", vocabulary: int = 300) -> PreTrainedTokenizerFast:
    """Byte-level BPE, which loses nothing of a text."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=["<s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(rows(50), trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=bos)


def save(folder: Path, model_class, config, *processors_of) -> None:
    """A random model of a config, which is the same each time, and its processors."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model_class(config).save_pretrained(folder)
    for processor in processors_of:
        processor.save_pretrained(folder)


def word_tokenizer() -> PreTrainedTokenizerFast:
    """Whole words between [CLS] and [SEP]."""
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    words = {word: i for i, word in enumerate([*special, *POSITIVE, *NEGATIVE, *NEUTRAL])}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", cls_token="[CLS]", sep_token="[SEP]"
    )


def save_bart(folder: Path) -> None:
    """An encoder and decoder of one layer each that writes the words of `sentences`."""
    tokenizer = word_tokenizer()
    config = BartConfig(
        vocab_size=len(tokenizer),
        d_model=16,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=24,
        decoder_ffn_dim=24,
        max_position_embeddings=32,
        init_std=0.5,
        pad_token_id=0,
        bos_token_id=2,
        eos_token_id=3,
        decoder_start_token_id=3,
        forced_eos_token_id=None,
    )
    save(folder, BartForConditionalGeneration, config, tokenizer)


def save_llama(folder: Path, tokenizer: PreTrainedTokenizerFast, vocabulary: int = 300) -> None:
    """A causal model of two layers with tied embeddings."""
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        tie_word_embeddings=True,
        # Large, so that predictions differ from uniform ones.
        initializer_range=0.5,
    )
    save(folder, LlamaForCausalLM, config, tokenizer)


def save_bert(folder: Path) -> None:
    """An encoder of two layers with a pooling layer."""
    config = BertConfig(
        vocab_size=len(word_tokenizer()),
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=16,
        initializer_range=0.5,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        BertModel(config).save_pretrained(folder)
    word_tokenizer().save_pretrained(folder)


def save_rows(folder: Path, **splits: dict[str, list]) -> None:
    """A dataset: the columns of each of its splits."""
    folder.mkdir(parents=True)
    for name, columns in splits.items():
        Dataset.from_dict(columns).to_parquet(str(folder / f"{name}.parquet"))


def sentences(count: int, classes: int, seed: int) -> dict[str, list]:
    """Sentences of 1 to 9 words, more often of the words of their class than of the others'."""
    generator = torch.Generator().manual_seed(seed)
    pools = (POSITIVE, NEGATIVE, NEUTRAL)
    texts, labels = [], []
    for number in range(count):
        label, length = number % classes, int(torch.randint(1, 10, (), generator=generator))
        kinds = torch.where(
            torch.rand(length, generator=generator) < 0.6,
            label,
            torch.randint(3, (length,), generator=generator),
        )
        words = torch.randint(3, (length,), generator=generator)
        texts.append(" ".join(pools[k][w] for k, w in zip(kinds, words, strict=True)))
        labels.append(label)
    return {"sentence": texts, "label": labels}
