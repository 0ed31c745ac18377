"""Every measure on models that return more than a tensor, with padding and tied weights."""

import pytest
import torch
from torch import nn

from lowrank.compression.compress import compress
from lowrank.decomposers import MagnitudePruning, Quantization, TruncatedSVD
from lowrank.measure import compare_latency, layer_macs, macs, nbytes, peak_memory
from lowrank.model.select import Select
from lowrank.point import measure_model
from lowrank.tasks.sentences import PADDING, SentenceClassifier

WIDTH, HIDDEN, VOCABULARY, LENGTH = 16, 24, 50, 12
LINEARS = Select(exclude="lm_head", kinds="Linear")


@pytest.fixture(scope="module")
def llama():
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=WIDTH,
        intermediate_size=HIDDEN,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=32,
        tie_word_embeddings=True,
        use_cache=False,
    )
    torch.manual_seed(0)
    return LlamaForCausalLM(config).eval()


@pytest.fixture(scope="module")
def classifier():
    from transformers import BertConfig, BertModel

    config = BertConfig(
        vocab_size=VOCABULARY,
        hidden_size=WIDTH,
        intermediate_size=HIDDEN,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=32,
    )
    torch.manual_seed(0)
    model = SentenceClassifier(BertModel(config), classes=3, normalize=True).eval()
    with torch.no_grad():
        nn.init.normal_(model.head.weight)
        nn.init.zeros_(model.head.bias)
    return model


def ids(batch: int = 1) -> tuple[torch.Tensor]:
    return (torch.arange(batch * LENGTH).reshape(batch, LENGTH) % VOCABULARY,)


def test_macs_of_a_language_model_by_hand(llama):
    # Keys and values have half the width.
    attention = WIDTH * (WIDTH + WIDTH // 2 + WIDTH // 2 + WIDTH)
    block = LENGTH * (attention + 3 * WIDTH * HIDDEN) + 2 * LENGTH * LENGTH * WIDTH
    head = LENGTH * WIDTH * VOCABULARY
    rotary = layer_macs(llama, ids())["model.rotary_emb"]
    assert macs(llama, ids()) == 2 * block + head + rotary
    assert layer_macs(llama, ids())["lm_head"] == head


def test_the_fewer_factors_the_fewer_macs(llama):
    small = compress(llama, TruncatedSVD(rank=2), LINEARS, ids())
    saved = sum(layer.dense_macs - layer.macs for layer in small.layers)
    assert macs(llama, ids()) - macs(small.model, ids()) == saved > 0
    assert len(small.layers) == 14


@pytest.mark.parametrize(
    "decomposer",
    [TruncatedSVD(rank=2), MagnitudePruning(sparsity=0.5), Quantization(bits=4)],
    ids=str,
)
@pytest.mark.parametrize("kind", ["llama", "classifier"])
def test_all_measures_of_a_model_whose_output_is_no_tensor(kind, decomposer, request):
    model = request.getfixturevalue(kind)
    small = compress(model, decomposer, LINEARS if kind == "llama" else "encoder.*", ids()).model
    dense, compressed = measure_model(model, ids()), measure_model(small, ids())
    assert compressed["bytes"] < dense["bytes"]
    assert compressed["macs"] <= dense["macs"]
    for measured, of in ((dense, model), (compressed, small)):
        assert measured["peak_memory_bytes"] > nbytes(of) and measured["params"] > 0
        assert measured == measure_model(of, ids())
    timed = compare_latency(model, small, ids(2), seconds=0.001)
    assert timed.batch_size == 2 and timed.dense_s > 0 and timed.compressed_s > 0


def test_tied_embeddings_count_once(llama):
    # Those of norms are all 1, for which 16 bits are enough.
    parameters = {id(p): p.nbytes // (2 if p.ndim == 1 else 1) for p in llama.parameters()}
    assert nbytes(llama) == sum(parameters.values())
    assert llama.lm_head.weight is llama.model.embed_tokens.weight


def test_no_memory_is_counted_for_keys_and_values_that_nobody_reads(llama):
    without = peak_memory(llama, ids())
    llama.config.use_cache = True
    try:
        assert peak_memory(llama, ids()) > without
    finally:
        llama.config.use_cache = False


def test_macs_of_a_sentence_do_not_depend_on_its_batch(classifier):
    (one,) = ids()
    padded = torch.cat([one, torch.full((1, 5), PADDING)], dim=1)
    assert macs(classifier, (torch.cat([one, one]),)) == 2 * macs(classifier, (one,))
    assert macs(classifier, (padded,)) > macs(classifier, (one,))
