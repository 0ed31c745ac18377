"""A file that says what model of transformers it holds is loaded without that model."""

import copy
import json

import hostile
import pytest
import torch
from architectures import ARCHITECTURES, dense, logits, transformers
from torch import nn

import lowrank
from lowrank import Quantization, TruncatedSVD
from lowrank.export.blank_parameters import on_meta

LLAMA = ARCHITECTURES["Llama"]


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    """A compressed Llama and its file."""
    path = tmp_path_factory.mktemp("llama") / "m.safetensors"
    model = lowrank.compress(dense("Llama"), Quantization(4)).model
    lowrank.save(model, path)
    return model, path


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_model_is_built_as_the_file_says(name, tmp_path):
    model = lowrank.compress(dense(name), TruncatedSVD(rank=2)).model
    lowrank.save(model, tmp_path / "m")
    before = torch.get_rng_state()
    loaded = lowrank.load(tmp_path / "m")
    assert type(loaded) is type(dense(name)) and not loaded.training
    assert torch.equal(logits(loaded, name), logits(model, name))
    assert torch.equal(torch.get_rng_state(), before)
    tensors, own = (dict(m.named_buffers()) | dict(m.named_parameters()) for m in (loaded, model))
    assert tensors.keys() == own.keys()
    assert all(torch.equal(tensors[name], own[name]) for name in own)
    assert {tensor.device.type for tensor in tensors.values()} == {"cpu"}
    assert loaded.config.to_diff_dict() | {"dtype": None} == model.config.to_diff_dict() | {
        "dtype": None
    }


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("how", ["built", "converted"])
def test_dtypes_of_weights_and_buffers_come_back(dtype, how, tmp_path):
    model = LLAMA.make().to(dtype)
    if how == "built":
        config = copy.deepcopy(model.config)
        model = transformers.LlamaForCausalLM._from_config(config, dtype=dtype).eval()
    model = lowrank.compress(model, Quantization(8)).model
    lowrank.save(model, tmp_path / "m")
    loaded = lowrank.load(tmp_path / "m")
    assert torch.equal(logits(loaded, "Llama"), logits(model, "Llama"))
    assert {n: b.dtype for n, b in loaded.named_buffers()} == {
        n: b.dtype for n, b in model.named_buffers()
    }


def test_greedy_generation_gives_the_same_tokens(tmp_path):
    model = lowrank.compress(LLAMA.make(), Quantization(8)).model
    model.generation_config.max_new_tokens = 7
    model.generation_config.repetition_penalty = 1.5
    lowrank.save(model, tmp_path / "m")
    ids = torch.arange(3, 9)[None]
    expected = model.generate(ids, do_sample=False)
    assert expected.shape == (1, 13)
    assert torch.equal(lowrank.load(tmp_path / "m").generate(ids, do_sample=False), expected)


def test_the_implementation_of_attention_comes_back(tmp_path):
    model = LLAMA.make()
    model.set_attn_implementation("eager")
    lowrank.save(model, tmp_path / "m")
    assert lowrank.load(tmp_path / "m").config._attn_implementation == "eager"


def test_a_file_names_no_place_of_this_machine(tmp_path):
    model = LLAMA.make()
    model.save_pretrained(tmp_path / "folder")
    model = transformers.LlamaForCausalLM.from_pretrained(tmp_path / "folder")
    assert str(tmp_path) in model.config._name_or_path
    lowrank.save(model, tmp_path / "m")
    assert str(tmp_path).encode() not in (tmp_path / "m").read_bytes()


class OwnLlama(transformers.LlamaForCausalLM):
    """A class that is not of the library."""


def test_a_model_of_somebody_elses_class_needs_that_class(tmp_path):
    torch.manual_seed(0)
    config = transformers.LlamaConfig(**LLAMA.settings)
    lowrank.save(OwnLlama(config), tmp_path / "m")
    with pytest.raises(ValueError, match="does not say how its model is built"):
        lowrank.load(tmp_path / "m")
    loaded = lowrank.load(tmp_path / "m", lambda: OwnLlama(config))
    assert type(loaded) is OwnLlama
    lowrank.save(nn.Sequential(LLAMA.make()), tmp_path / "inside")
    with pytest.raises(ValueError, match="does not say how its model is built"):
        lowrank.load(tmp_path / "inside")


def test_a_changed_model_is_refused_with_what_does_not_fit(tmp_path):
    model = LLAMA.make()
    del model.model.layers[1:]
    lowrank.save(model, tmp_path / "m")
    with pytest.raises(ValueError, match=r"the file does not fit the model: it lacks .*layers\.1"):
        lowrank.load(tmp_path / "m")


def test_a_given_model_is_taken_instead(llama):
    model, path = llama
    other = LLAMA.make(seed=3)
    other.config.use_cache = False
    assert not lowrank.load(path, other).config.use_cache
    assert torch.equal(logits(lowrank.load(path, LLAMA.make), "Llama"), logits(model, "Llama"))


HOSTILE = {
    "billions of layers": ({"num_hidden_layers": 10**9}, "cannot be built|has more parameters"),
    "many layers": ({"num_hidden_layers": 10**5}, "has more parameters than the file can be of"),
    "wide layers": ({"hidden_size": 2**20}, "does not fit|in the file and|cannot be built"),
    "a large vocabulary": ({"vocab_size": 2**24}, "in the file and"),
    "one layer more": ({"num_hidden_layers": 3}, "no module|does not fit the model: it lacks"),
    "nonsense": ({"hidden_size": "wide"}, "cannot be built from its config"),
    "code of its own": ({"auto_map": {"AutoModel": "x.Y"}}, "its config has 'auto_map', by which"),
    "attention of a hub": ({"attn_implementation": "me/kernel"}, "has 'attn_implementation', by"),
    "hidden attention": ({"_attn_implementation": "me/kernel"}, "has '_attn_implementation', by"),
    "nested": ({"text_config": {"_attn_implementation": "a/b"}}, "has '_attn_implementation'"),
    "weights of a hub": ({"use_pretrained_backbone": True}, "has 'use_pretrained_backbone'"),
    "a model of a hub": ({"backbone": "hf-hub:me/model"}, "has 'hf-hub:me/model'"),
    "another kind": ({"model_type": "bert"}, "of model_type 'bert', which is none of LlamaForCau"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_config_is_one_error_before_memory_is_taken(name, llama, tmp_path):
    change, says = HOSTILE[name]
    path = tmp_path / "m"
    path.write_bytes(llama[1].read_bytes())
    hostile.edited(path, lambda own: own["architecture"]["config"].update(change))
    with pytest.raises(ValueError, match=says) as caught:
        lowrank.load(path)
    assert str(path) in str(caught.value) and len(str(caught.value)) < 2000


CLASSES = [
    "AutoModelForCausalLM",
    "pipeline",
    "__name__",
    "os",
    "PreTrainedModel",
    "No such",
    "é",
    "",
]


@pytest.mark.parametrize("name", CLASSES)
def test_what_is_no_model_of_the_library_is_refused(name, llama, tmp_path):
    path = tmp_path / "m"
    path.write_bytes(llama[1].read_bytes())
    hostile.edited(path, lambda own: own["architecture"].update(name=name))
    with pytest.raises(ValueError, match=f"it holds a '{name}', which transformers .* does not"):
        lowrank.load(path)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(("library", "timm"), ("config", None), ("config", [1]), ("name", 3), ("buffers", [])),
        *(("dtype", "int8"), ("attention", "me/kernel"), ("generation", 1), ("more", 1)),
        ("buffers", {"model.rotary_emb.inv_freq": "string"}),
    ],
)
def test_another_description_is_refused(field, value, llama, tmp_path):
    path = tmp_path / "m"
    path.write_bytes(llama[1].read_bytes())
    hostile.edited(path, lambda own: own["architecture"].update({field: value}))
    with pytest.raises(ValueError, match="the header.architecture"):
        lowrank.load(path)


def test_large_bases_stay_numbers(tmp_path):
    settings = LLAMA.settings | {"rope_parameters": {"rope_theta": 10**11, "rope_type": "default"}}
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**settings)).eval()
    lowrank.save(model, tmp_path / "m")
    assert torch.equal(logits(lowrank.load(tmp_path / "m"), "Llama"), logits(model, "Llama"))


def test_parameters_of_other_threads_and_later_ones_have_memory():
    import threading

    made = []
    with on_meta():
        thread = threading.Thread(target=lambda: made.append(nn.Linear(2, 2)))
        thread.start()
        thread.join()
        tied = nn.Linear(2, 2)
        both = nn.ModuleList([tied, nn.Linear(2, 2)])
        both[1].weight = tied.weight
    assert not made[0].weight.is_meta and not nn.Linear(2, 2).weight.is_meta
    assert both[0].weight.is_meta and both[0].weight is both[1].weight


def test_a_header_holds_the_class_and_its_config(llama):
    header, _ = hostile.split(llama[1].read_bytes())
    found = json.loads(header["__metadata__"]["lowrank"])["architecture"]
    assert found["library"] == "transformers" and found["name"] == "LlamaForCausalLM"
    assert found["config"]["hidden_size"] == LLAMA.settings["hidden_size"]
