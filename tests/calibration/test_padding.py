"""A padded batch gives what its examples give alone, each without its padding."""

import pytest
import torch
import transformers as hf
from made_tensors import single_by_sum as numbers
from torch import nn
from torch.nn.modules.conv import _ConvNd

from lowrank.calibration import Batches, CalibratedNorms
from lowrank.calibration.collect import collect
from lowrank.model.sites import find_sites

LOWEST = torch.finfo(torch.float32).min


def ids(*shape: int, seed: int = 0, size: int = 60) -> torch.Tensor:
    return torch.randint(3, size, shape, generator=torch.Generator().manual_seed(seed + sum(shape)))


def right(lengths: list[int], longest: int) -> torch.Tensor:
    """A mask of sentences of these lengths, 1 where a token is real."""
    return (torch.arange(longest) < torch.tensor(lengths)[:, None]).long()


def made(kind: type[nn.Module], *args, **settings) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return kind(*args, **settings).eval()


def named(model: nn.Module) -> list[str]:
    """The modules whose inputs can be seen and that a forward pass may call."""
    return [
        use.name
        for site in find_sites(model)
        for use in site.uses
        if use.rule.is_called(use.module)
    ]


def seen_alone(model: nn.Module, names: list[str], singles: list) -> dict[str, list[torch.Tensor]]:
    """By name, what each module was given for examples one at a time: by plain hooks."""
    given: dict[str, list[torch.Tensor]] = {name: [] for name in names}
    handles = [
        model.get_submodule(name).register_forward_pre_hook(
            lambda module, args, kwargs, name=name: given[name].append(
                (args or tuple(kwargs.values()))[0].detach()
            ),
            with_kwargs=True,
        )
        for name in names
    ]
    with torch.no_grad():
        for single in singles:
            model(**single) if isinstance(single, dict) else model(*single)
    for handle in handles:
        handle.remove()
    return given


def check(model: nn.Module, batch, singles: list) -> dict:
    """The statistics of a batch, which are those of its examples alone."""
    names = named(model)
    found = collect(model, names, Batches([batch]), full=True)
    for name, inputs in seen_alone(model, names, singles).items():
        layer = model.get_submodule(name)
        if not inputs or isinstance(layer, _ConvNd):
            continue
        if isinstance(layer, nn.Embedding):
            looked_up = torch.cat([x.flatten() for x in inputs])
            shares = torch.bincount(looked_up, minlength=len(layer.weight)) / len(looked_up)
            torch.testing.assert_close(found[name].rows.float(), shares)
            assert found[name].count == len(looked_up)
        else:
            rows = torch.cat([x.reshape(-1, x.shape[-1]) for x in inputs]).double()
            assert found[name].count == len(rows), name
            moment = rows.T @ rows / len(rows)
            error = (found[name].columns - moment).norm() / moment.norm()
            assert error < 1e-5, (name, error)
        assert not found[name].notes
    return found


T5 = {"vocab_size": 60, "d_model": 16, "d_ff": 32, "num_layers": 1, "num_heads": 2, "d_kv": 8}
BART = {
    "vocab_size": 60,
    "d_model": 16,
    **{f"{part}_layers": 1 for part in ("encoder", "decoder")},
    **{f"{part}_attention_heads": 2 for part in ("encoder", "decoder")},
    **{f"{part}_ffn_dim": 32 for part in ("encoder", "decoder")},
    "max_position_embeddings": 32,
}
SMALL = {"vocab_size": 60, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1}
HEADS = {"num_attention_heads": 2}


def t5() -> nn.Module:
    return made(hf.T5ForConditionalGeneration, hf.T5Config(**T5, decoder_start_token_id=0))


def bart() -> nn.Module:
    return made(hf.BartForConditionalGeneration, hf.BartConfig(**BART, decoder_start_token_id=2))


@pytest.mark.parametrize("model", [t5, bart])
@pytest.mark.parametrize("said", ["labels", "mask", "nothing"])
def test_encoder_and_decoder_of_one_length(model, said):
    sources, targets = [4, 9, 6], [9, 2, 5]
    words, labels = ids(3, 9), ids(3, 9, seed=1)
    batch = {"input_ids": words, "attention_mask": right(sources, 9), "labels": labels}
    if said == "labels":
        batch["labels"] = labels.masked_fill(right(targets, 9) == 0, -100)
    elif said == "mask":
        batch["decoder_attention_mask"] = right(targets, 9)
    else:
        targets = [9, 9, 9]
    singles = [
        {"input_ids": words[i : i + 1, :s], "labels": labels[i : i + 1, :t]}
        for i, (s, t) in enumerate(zip(sources, targets, strict=True))
    ]
    check(model(), batch, singles)


def test_decoder_ids_of_the_length_of_the_encoder_are_not_cut_with_it():
    words, decoded = ids(2, 7), ids(2, 7, seed=1)
    batch = {"input_ids": words, "attention_mask": right([3, 7], 7), "decoder_input_ids": decoded}
    singles = [
        {"input_ids": words[i : i + 1, :s], "decoder_input_ids": decoded[i : i + 1]}
        for i, s in enumerate([3, 7])
    ]
    check(t5(), batch, singles)


class Wrapped(nn.Module):
    """Hands what it is given on by name, so that its own signature says nothing."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, **batch):
        return self.inner(**batch)


def test_labels_of_a_wrapped_encoder_and_decoder_belong_to_the_decoder():
    words, labels = ids(2, 6), ids(2, 6, seed=1)
    batch = {"input_ids": words, "attention_mask": right([2, 6], 6), "labels": labels}
    singles = [
        {"input_ids": words[i : i + 1, :s], "labels": labels[i : i + 1]}
        for i, s in enumerate([2, 6])
    ]
    check(made(Wrapped, t5()), batch, singles)


class Experts(nn.Module):
    """Each token goes to the linear expert that its gate prefers, past others of its sentence."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.gate = nn.Embedding(60, 8), nn.Linear(8, 3)
        self.experts = nn.ModuleList(nn.Linear(8, 8) for _ in range(3))

    def forward(self, input_ids, attention_mask=None):
        x = self.table(input_ids).flatten(0, 1)
        best = self.gate(x).argmax(dim=-1)
        for index, expert in enumerate(self.experts):
            if bool((best == index).any()):
                x = x.index_put(((best == index).nonzero()[:, 0],), expert(x[best == index]))
        return x.unflatten(0, input_ids.shape)


@pytest.mark.parametrize("lengths", [[3, 12, 5, 1], [12, 3, 3, 3]])
def test_tokens_that_are_routed_to_experts(lengths):
    words = ids(4, 12)
    batch = {"input_ids": words, "attention_mask": right(lengths, 12)}
    singles = [{"input_ids": words[i : i + 1, :n]} for i, n in enumerate(lengths)]
    found = check(made(Experts), batch, singles)
    experts = [entry.count for name, entry in found.items() if "experts" in name]
    assert sum(experts) == sum(lengths) == found["gate"].count


def test_a_mixture_of_experts_of_transformers():
    config = hf.MixtralConfig(
        **SMALL, **HEADS, num_key_value_heads=1, num_local_experts=4, num_experts_per_tok=2
    )
    words, lengths = ids(3, 8), [8, 2, 5]
    singles = [{"input_ids": words[i : i + 1, :n]} for i, n in enumerate(lengths)]
    batch = {"input_ids": words, "attention_mask": right(lengths, 8)}
    check(made(hf.MixtralForCausalLM, config), batch, singles)


@pytest.mark.parametrize("longest", [6, 7])
def test_a_model_that_runs_length_first_with_as_many_sentences_as_tokens(longest):
    config = hf.XLNetConfig(vocab_size=60, d_model=16, n_layer=1, n_head=2, d_inner=32)
    words, lengths = ids(6, longest), [6, 2, 4, 1, 6, 3]
    batch = {"input_ids": words, "attention_mask": right(lengths, longest)}
    singles = [{"input_ids": words[i : i + 1, :n]} for i, n in enumerate(lengths)]
    check(made(hf.XLNetModel, config), batch, singles)


@pytest.mark.parametrize("norm", ["group", "layer"])
def test_audio_of_which_a_convolution_skips_frames(norm):
    config = hf.Wav2Vec2Config(
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        conv_dim=(8, 8),
        conv_kernel=(5, 3),
        conv_stride=(4, 2),
        num_conv_pos_embeddings=4,
        num_conv_pos_embedding_groups=2,
        feat_extract_norm=norm,
    )
    sound, lengths = numbers(3, 200), [200, 90, 120]
    batch = {"input_values": sound, "attention_mask": right(lengths, 200)}
    singles = [{"input_values": sound[i : i + 1, :n]} for i, n in enumerate(lengths)]
    found = check(made(hf.Wav2Vec2Model, config), batch, singles)
    counts = [entry.count for name, entry in found.items() if "conv" not in name]
    assert max(counts) < 410 / 7


def test_sentences_padded_on_the_left():
    config = hf.GPT2Config(vocab_size=60, n_embd=16, n_layer=1, n_head=2, n_positions=16)
    words, lengths = ids(3, 9), [9, 4, 6]
    mask = right(lengths, 9).flip(1)
    singles = [{"input_ids": words[i : i + 1, 9 - n :]} for i, n in enumerate(lengths)]
    model = made(hf.GPT2LMHeadModel, config)
    check(model, {"input_ids": words, "attention_mask": mask, "labels": words}, singles)
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    both = {"input_ids": words, "attention_mask": mask, "position_ids": positions}
    check(model, both, singles)


def bert() -> nn.Module:
    return made(hf.BertModel, hf.BertConfig(**SMALL, **HEADS))


@pytest.mark.parametrize("form", [tuple, list])
def test_a_mask_in_a_batch_without_names(form):
    # Sentences of one length share the numbers of their positions if they run together.
    words, lengths = ids(4, 7), [2, 7, 4, 2]
    singles = [(words[i : i + 1, :n],) for i, n in enumerate(lengths)]
    found = check(bert(), form([words, right(lengths, 7)]), singles)
    assert found["pooler.dense"].count == 4
    assert found["embeddings.position_embeddings"].count == 15


def test_segments_and_kinds_of_tokens_are_cut_along():
    words, kinds = ids(2, 8), torch.tensor([[0, 0, 1, 1, 1, 0, 0, 0], [0, 0, 0, 0, 1, 1, 1, 1]])
    segments = torch.tensor([[1, 1, 2, 2, 3, 0, 0, 0], [1] * 8])
    batch = {"input_ids": words, "token_type_ids": kinds, "attention_mask": segments}
    singles = [
        {"input_ids": words[i : i + 1, :n], "token_type_ids": kinds[i : i + 1, :n]}
        for i, n in enumerate([5, 8])
    ]
    check(bert(), batch, singles)


def padding(value: float, lengths: list[int], longest: int) -> torch.Tensor:
    """What is added to the scores of keys, (batch, 1, 1, keys)."""
    return (right(lengths, longest) == 0)[:, None, None] * torch.tensor(value)


@pytest.mark.parametrize("dtype", ["bool", "added", "added causal", "bool of queries"])
def test_masks_of_four_axes(dtype):
    config = hf.LlamaConfig(**SMALL, **HEADS)
    words, lengths = ids(2, 6), [3, 6]
    causal = torch.ones(6, 6).tril().bool()
    shown = right(lengths, 6).bool()[:, None, None] & causal
    masks = {
        "bool": shown,
        "added": padding(LOWEST, lengths, 6) + torch.where(causal, 0.0, LOWEST / 2),
        "added causal": torch.where(shown, 0.0, LOWEST),
        "bool of queries": shown.expand(2, 2, 6, 6),
    }
    singles = [{"input_ids": words[i : i + 1, :n]} for i, n in enumerate(lengths)]
    model = made(hf.LlamaForCausalLM, config)
    check(model, {"input_ids": words, "attention_mask": masks[dtype]}, singles)


class Translator(nn.Module):
    """Torch's encoder and decoder, the length first, with projections of their own."""

    def __init__(self, batch_first: bool) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(8, 8), nn.Linear(8, 5)
        self.core = nn.Transformer(8, 2, 1, 1, 16, batch_first=batch_first, dropout=0.0)

    def forward(
        self, src, tgt, tgt_mask=None, src_key_padding_mask=None, tgt_key_padding_mask=None
    ):
        out = self.core(
            self.first(src),
            tgt,
            tgt_mask=tgt_mask,
            src_key_padding_mask=src_key_padding_mask,
            memory_key_padding_mask=src_key_padding_mask,
            tgt_key_padding_mask=tgt_key_padding_mask,
        )
        return self.last(out)


@pytest.mark.filterwarnings("ignore:enable_nested_tensor")
@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("lengths", [(7, 7), (7, 5)])
def test_the_padding_masks_of_torch(batch_first, lengths):
    longest, other = lengths
    sources, targets = [2, 7, 4], [other, 3, 1]
    src, tgt = numbers(3, longest, 8), numbers(3, other, 8)
    causal = torch.ones(other, other).triu(1).bool()

    def turned(x):
        return x if batch_first else x.transpose(0, 1)

    batch = {
        "src": turned(src),
        "tgt": turned(tgt),
        "tgt_mask": causal,
        "src_key_padding_mask": right(sources, longest) == 0,
        "tgt_key_padding_mask": right(targets, other) == 0,
    }
    singles = [
        {
            "src": turned(src[i : i + 1, :s]),
            "tgt": turned(tgt[i : i + 1, :t]),
            "tgt_mask": causal[:t, :t],
        }
        for i, (s, t) in enumerate(zip(sources, targets, strict=True))
    ]
    check(made(Translator, batch_first), batch, singles)


@pytest.mark.parametrize("nested", [True, False])
def test_an_encoder_of_torch_whose_fused_kernels_call_no_layer(nested):
    class Encoder(nn.Module):
        def __init__(self):
            super().__init__()
            layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, dropout=0.0)
            self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=nested)
            self.head = nn.Linear(8, 3)

        def forward(self, x, src_key_padding_mask=None):
            return self.head(self.encoder(x, src_key_padding_mask=src_key_padding_mask))

    x, lengths = numbers(4, 6, 8), [6, 1, 3, 3]
    singles = [(x[i : i + 1, :n],) for i, n in enumerate(lengths)]
    found = check(made(Encoder), (x, right(lengths, 6) == 0), singles)
    assert found["encoder.layers.1.linear2"].count == 13


class Layer(nn.Module):
    """Torch's layer on a projection."""

    def __init__(self, batch_first: bool) -> None:
        super().__init__()
        self.first = nn.Linear(8, 8)
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=batch_first, dropout=0.0)

    def forward(self, x, key_padding_mask=None):
        return self.layer(self.first(x), src_key_padding_mask=key_padding_mask)


@pytest.mark.parametrize("dtype", ["bool", "added"])
def test_a_padding_mask_of_torch_with_as_many_examples_as_positions(dtype):
    x, lengths = numbers(4, 4, 8), [4, 2, 3, 1]
    mask = right(lengths, 4) == 0
    if dtype == "added":
        mask = torch.where(mask, -torch.inf, 0.0)
    singles = [(x[i : i + 1, :n],) for i, n in enumerate(lengths)]
    check(made(Layer, True), (x, mask), singles)
    # Of the same numbers with the length first nobody can tell the two axes apart.
    found = collect(made(Layer, False), ["first"], Batches([(x, mask)]), full=True)["first"]
    assert found.count == 16 and "padding that could not be cut off counts" in " ".join(found.notes)


class Causal(nn.Module):
    """A mask of (queries, keys) that all sentences share."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x, mask=None):
        scores = x @ x.transpose(1, 2)
        hidden = torch.zeros(()) if mask is None else (mask == 0) * -1e9
        return self.layer((scores + hidden).softmax(-1) @ x)


@pytest.mark.parametrize("batch", [1, 3, 7])
def test_a_causal_mask_says_nothing_about_padding(batch):
    x, causal = numbers(batch, 5, 4), torch.ones(5, 5).tril()
    model = made(Causal)
    with torch.no_grad():
        given = (x @ x.transpose(1, 2) + (causal == 0) * -1e9).softmax(-1) @ x
    rows = given.flatten(0, 1).double()
    found = collect(model, ["layer"], Batches([{"x": x, "mask": causal}]), full=True)["layer"]
    assert found.count == 5 * batch and not found.notes
    torch.testing.assert_close(found.columns, rows.T @ rows / len(rows), rtol=1e-5, atol=1e-6)


def test_a_mask_that_may_be_causal_or_padding_is_noted():
    words, mask = ids(5, 5), torch.ones(5, 5).tril().long()
    found = collect(bert(), ["pooler.dense"], Batches([(words, mask)]), full=True)
    assert "attention_mask was not taken for padding" in " ".join(found["pooler.dense"].notes)


def test_a_batch_without_padding_runs_as_it_is():
    words = ids(2, 5)
    for mask in (torch.ones(2, 5), torch.tensor([[1, 1, 2, 2, 2], [1] * 5]), words > 0):
        batch = {"input_ids": words, "attention_mask": mask}
        (piece,) = Batches([batch]).pieces(bert())
        assert piece.batch.inputs == batch and not piece.batch.real and not piece.notes


def test_numbers_that_stand_for_padding_may_be_anything():
    class Features(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(4, 2)

        def forward(self, x, mask):
            return self.layer(x)

    x, mask = numbers(2, 5, 4), right([2, 5], 5)
    x[mask == 0] = torch.nan
    model = made(Features)
    norm = CalibratedNorms("full").calibrate(model, find_sites(model), [(x, mask)])
    real = x[mask.bool()].double()
    torch.testing.assert_close(norm.statistics["layer"].columns, real.T @ real / 7)


def test_examples_that_are_all_padding_are_left_out():
    words, lengths = ids(3, 6), [4, 0, 6]
    batch = {"input_ids": words, "attention_mask": right(lengths, 6)}
    singles = [{"input_ids": words[i : i + 1, :n]} for i, n in enumerate(lengths) if n]
    found = check(bert(), batch, singles)
    assert found["pooler.dense"].count == 2


def test_padding_between_real_tokens_does_not_count_and_needs_the_mask():
    words, mask = ids(2, 5), torch.tensor([[1, 0, 1, 1, 0], [1, 1, 1, 1, 1]])
    batch = {"input_ids": words, "attention_mask": mask}
    found = collect(bert(), named(bert()), Batches([batch]), full=True)
    counts = {name: entry.count for name, entry in found.items()}
    assert counts["encoder.layer.0.output.dense"] == 8 and counts["pooler.dense"] == 2
    assert counts["embeddings.word_embeddings"] == 8
    assert not found["encoder.layer.0.output.dense"].notes
    assert "padding that could not be cut off counts" in " ".join(found["pooler.dense"].notes)


class Spectra(nn.Module):
    """Audio as (batch, bands, frames), of which a convolution skips every second frame."""

    def __init__(self) -> None:
        super().__init__()
        self.skip, self.layer = nn.Conv1d(6, 8, 3, 2), nn.Linear(8, 8)
        self.direct = nn.Linear(6, 8)

    def forward(self, features, attention_mask=None):
        return self.layer(self.skip(features).transpose(1, 2)), self.direct(
            features.transpose(1, 2)
        )


def test_positions_on_an_axis_that_is_not_understood_are_noted_where_they_count():
    x, mask = numbers(2, 6, 11), right([5, 11], 11)
    found = collect(
        made(Spectra), ["layer", "direct"], Batches([{"features": x, "attention_mask": mask}]), True
    )
    assert found["layer"].count == 2 * 5 and "counts" in " ".join(found["layer"].notes)
    assert found["direct"].count == 5 + 11 and not found["direct"].notes
    rows = torch.cat([x[0, :, :5].T, x[1].T]).double()
    torch.testing.assert_close(found["direct"].columns, rows.T @ rows / 16, rtol=1e-5, atol=1e-6)


def test_a_mask_of_another_kind_is_noted_and_not_used():
    class Pixels(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(6, 2)

        def forward(self, pixel_values, pixel_mask=None):
            return self.layer(pixel_values)

    mask = torch.ones(2, 5, 6)
    mask[0, 3:] = 0
    batch = {"pixel_values": numbers(2, 3, 5, 6), "pixel_mask": mask}
    found = collect(made(Pixels), ["layer"], Batches([batch]), full=True)["layer"]
    assert found.count == 30 and found.notes == (
        "the argument pixel_mask was not taken for padding",
    )


def test_a_batch_that_cannot_be_taken_apart_uses_its_mask():
    class Patches(nn.Module):
        """The patches of all images stand in one row."""

        def __init__(self):
            super().__init__()
            self.table, self.layer = nn.Embedding(60, 4), nn.Linear(4, 4)
            self.patch = nn.Linear(3, 4)

        def forward(self, input_ids, patches, attention_mask=None):
            return self.layer(self.table(input_ids) + self.patch(patches).mean(0))

    words, lengths = ids(2, 6), [3, 6]
    batch = {"input_ids": words, "patches": numbers(9, 3), "attention_mask": right(lengths, 6)}
    found = collect(made(Patches), ["table", "layer", "patch"], Batches([batch]), full=True)
    assert [found[name].count for name in ("table", "layer", "patch")] == [9, 9, 9]
    assert not found["layer"].notes and "counts" in " ".join(found["patch"].notes)


def test_a_decoder_beside_states_of_an_encoder_of_its_length():
    config = hf.BertConfig(**SMALL, **HEADS, is_decoder=True, add_cross_attention=True)
    model, words, states = made(hf.BertLMHeadModel, config), ids(2, 6), numbers(2, 6, 16)
    batch = {
        "input_ids": words,
        "attention_mask": right([3, 6], 6),
        "encoder_hidden_states": states,
    }
    singles = [
        {"input_ids": words[i : i + 1, :n], "encoder_hidden_states": states[i : i + 1]}
        for i, n in enumerate([3, 6])
    ]
    check(model, batch, singles)
    batch["encoder_attention_mask"] = right([5, 2], 6)
    for i, n in enumerate([5, 2]):
        singles[i]["encoder_hidden_states"] = states[i : i + 1, :n]
    check(model, batch, singles)


def test_outputs_of_an_encoder_are_cut_with_its_mask():
    model, words, decoded = t5(), ids(2, 6), ids(2, 6, seed=1)
    mask = right([4, 6], 6)
    states = model.get_encoder()(words, attention_mask=mask).last_hidden_state.detach()
    outputs = hf.modeling_outputs.BaseModelOutput

    def given(rows: slice, length: int) -> dict:
        states_of = outputs(last_hidden_state=states[rows, :length])
        return {"encoder_outputs": states_of, "decoder_input_ids": decoded[rows]}

    singles = [given(slice(0, 1), 4), given(slice(1, 2), 6)]
    check(model, given(slice(0, 2), 6) | {"attention_mask": mask}, singles)


def test_a_counter_of_positions_counts_from_the_first_that_runs():
    class Counted(nn.Module):
        def __init__(self):
            super().__init__()
            self.table, self.places = nn.Embedding(60, 4), nn.Embedding(20, 4)
            self.layer = nn.Linear(4, 4)

        def forward(self, input_ids, attention_mask=None, cache_position=None):
            return self.layer(self.table(input_ids) + self.places(cache_position))

    words, lengths = ids(3, 8), [3, 8, 5]
    mask, counter = right(lengths, 8).flip(1), torch.arange(8)
    batch = {"input_ids": words, "attention_mask": mask, "cache_position": counter}
    singles = [
        {"input_ids": words[i : i + 1, 8 - n :], "cache_position": counter[:n]}
        for i, n in enumerate(lengths)
    ]
    check(made(Counted), batch, singles)


@pytest.mark.parametrize("mode", ["one-shot", "sequential"])
def test_in_sequence_the_same_positions_count(mode):
    from lowrank.compression.compress import compress
    from lowrank.decomposers import GPTQ

    config = hf.LlamaConfig(**(SMALL | {"num_hidden_layers": 2}), **HEADS)
    model, lengths = made(hf.LlamaForCausalLM, config), [3, 8, 5, 5]
    words, norm = ids(4, 8), CalibratedNorms("full", mode=mode)
    batch = {"input_ids": words, "attention_mask": right(lengths, 8)}
    alone = [words[i : i + 1, :n] for i, n in enumerate(lengths)]
    padded, plain = (
        compress(model, GPTQ(bits=8), where="*layers*", norm=norm, data=data)
        for data in ([batch], alone)
    )
    for one, other in zip(padded.layers, plain.layers, strict=True):
        assert one.norm_error == pytest.approx(other.norm_error, rel=1e-3)
    assert padded.calibration["positions"] == plain.calibration["positions"] == 21
