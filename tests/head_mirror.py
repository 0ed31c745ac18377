"""A mirror of the hub made in a test: tiny models of transformers with heads, their processors."""

import io
import json
from pathlib import Path

import numpy as np
import soundfile
import text_mirror
import torch
from text_mirror import NEGATIVE, NEUTRAL, POSITIVE
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    BertConfig,
    PreTrainedTokenizerFast,
    ViTConfig,
    ViTImageProcessorPil,
    Wav2Vec2Config,
    Wav2Vec2CTCTokenizer,
    WhisperConfig,
)

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


def letter_tokenizer(folder: Path) -> Wav2Vec2CTCTokenizer:
    """The letters of "one" and "two", and the blank as padding."""
    folder.mkdir(parents=True, exist_ok=True)
    letters = ["<pad>", "<s>", "</s>", "<unk>", "|", *"ENOTW"]
    (folder / "vocab.json").write_text(json.dumps({one: at for at, one in enumerate(letters)}))
    return Wav2Vec2CTCTokenizer(str(folder / "vocab.json"))


def wav2vec_config(**options) -> Wav2Vec2Config:
    """A frame for each 16 samples."""
    return Wav2Vec2Config(
        vocab_size=10,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=1,
        num_attention_heads=2,
        conv_dim=(8, 8),
        conv_stride=(4, 4),
        conv_kernel=(8, 4),
        num_feat_extract_layers=2,
        feat_extract_norm="layer",
        num_conv_pos_embeddings=4,
        num_conv_pos_embedding_groups=2,
        classifier_proj_size=8,
        pad_token_id=0,
        initializer_range=0.3,
        ctc_loss_reduction="mean",
        **options,
    )


def whisper_config() -> WhisperConfig:
    """It takes a tenth of a second."""
    words = len(text_mirror.word_tokenizer())
    return WhisperConfig(
        vocab_size=words,
        num_mel_bins=8,
        d_model=16,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=24,
        decoder_ffn_dim=24,
        max_source_positions=50,
        max_target_positions=16,
        init_std=0.5,
        pad_token_id=0,
        bos_token_id=2,
        eos_token_id=3,
        decoder_start_token_id=2,
        suppress_tokens=None,
        begin_suppress_tokens=None,
    )


def tones(texts, rate: int = 16_000, seconds: float = 0.05) -> list[dict]:
    """A WAV file for each text: a tone of its own for each word, in noise."""
    random, made = np.random.default_rng(0), []
    for text in texts:
        parts = []
        for word in text.split():
            pitch = 300 * (1 + sum(map(ord, word)) % 9)
            times = np.arange(int(seconds * rate)) / rate
            parts.append(np.sin(2 * np.pi * pitch * times))
        wave = 0.3 * np.concatenate(parts) + 0.01 * random.standard_normal(sum(map(len, parts)))
        file = io.BytesIO()
        soundfile.write(file, wave, rate, format="WAV")
        made.append({"bytes": file.getvalue(), "path": None})
    return made


def whole(task):
    """All test examples of a task as one batch."""
    test = task.split("test")
    return test.batch(torch.arange(len(test)))
