"""Checkpoints whose modules compute weights from others, or hold several in one tensor."""

from dataclasses import replace

import pytest
import torch
from test_streamed_blocks import FOUR, NORM
from transformers import SiglipVisionConfig, SiglipVisionModel, Wav2Vec2Config, Wav2Vec2ForCTC

import lowrank
from lowrank import CalibratedNorms
from lowrank.export.checkpoint import opened_model

SIZES = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
}


def wav2vec2():
    """A convolution between the blocks has a weight norm, whose parts torch keeps in a list."""
    torch.manual_seed(0)
    convolutions = {"conv_dim": (16, 16), "conv_stride": (5, 4), "conv_kernel": (10, 8)}
    positions = {"num_conv_pos_embeddings": 8, "num_conv_pos_embedding_groups": 2}
    own = {**convolutions, **positions, "num_feat_extract_layers": 2, "vocab_size": 20}
    return Wav2Vec2ForCTC(Wav2Vec2Config(**SIZES, **own)).eval(), [torch.randn(2, 800)]


def siglip():
    """Query, key and value of its head are one tensor."""
    torch.manual_seed(0)
    config = SiglipVisionConfig(**SIZES, image_size=8, patch_size=4)
    return SiglipVisionModel(config).eval(), [torch.randn(2, 3, 8, 8)]


@pytest.mark.parametrize("mode", ["sequential", "one-shot"])
@pytest.mark.parametrize("make", [wav2vec2, siglip])
def test_it_is_calibrated_as_in_memory(make, mode, tmp_path):
    dense, data = make()
    dense.save_pretrained(tmp_path / "dense")
    given = ("*.layers.*", replace(NORM, mode=mode), data)
    ours = lowrank.compress_checkpoint(tmp_path / "dense", tmp_path / "small", FOUR, *given)
    theirs = lowrank.compress(dense, FOUR, given[0], norm=given[1], data=data)
    lowrank.save(theirs.model, tmp_path / "m")
    with opened_model(tmp_path / "small") as found, opened_model(tmp_path / "m") as wanted:
        tensors, others = found.read()[0], wanted.read()[0]
        assert tensors.keys() == others.keys()
        assert not [name for name in tensors if not torch.equal(tensors[name], others[name])]
    assert ours.layers == theirs.layers and len(ours.layers) >= 12


@pytest.mark.parametrize("make", [wav2vec2, siglip])
def test_its_statistics_are_those_in_memory(make, tmp_path):
    dense, data = make()
    source, norm = tmp_path / "dense", CalibratedNorms("full")
    dense.save_pretrained(source)
    kept = lowrank.calibrate_checkpoint(source, tmp_path / "kept", data, "*.layers.*")
    ours = lowrank.compress(dense, FOUR, "*.layers.*", norm=norm, data=kept)
    assert ours.layers == lowrank.compress(dense, FOUR, "*.layers.*", norm=norm, data=data).layers
    given = ("*.layers.*", norm, kept)
    result = lowrank.compress_checkpoint(source, tmp_path / "small", FOUR, *given)
    assert result.layers == ours.layers
