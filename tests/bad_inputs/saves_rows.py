"""What can be put into no file."""

import torch
from files import FOUR_BITS, NAN, linear, two
from row import Row
from torch import nn

from lowrank.compression.compress import compress
from lowrank.export import checkpoint
from lowrank.factorizations import Dense, Layout, Quantized, Scaled
from lowrank.model.factorized import FactorizedLinear


def save(change):
    """Save a model of two layers after something was done to it."""

    def act(folder):
        model = two()
        replaced = change(model)
        return checkpoint.save(model if replaced is None else replaced, folder / "m")

    return act


def registered(value):
    return lambda model: model.register_buffer("extra", value)


def reserved(model):
    model.register_buffer("__metadata__", torch.ones(2))


def nameless(model):
    model.register_buffer("\ud800", torch.ones(2))


def compiled(folder):
    return checkpoint.save(torch.compile(two(), backend="eager"), folder / "m")


def compiled_in_part(folder):
    return checkpoint.save(
        nn.Sequential(two(), torch.compile(linear(), backend="eager")), folder / "m"
    )


def overlapping(model):
    memory = torch.randn(20, 12)
    model[0].weight = nn.Parameter(memory[:8])
    model.append(nn.Linear(12, 8))
    model[2].weight = nn.Parameter(memory[4:12])


def as_other_numbers(model):
    model.register_buffer("bits", model[0].weight.detach().view(torch.int32))


def state(value):
    class Stateful(nn.Module):
        def get_extra_state(self):
            return value

        def set_extra_state(self, _):
            pass

    return lambda model: model.append(Stateful())


def not_a_number(_):
    codes = torch.zeros(8, 12, dtype=torch.uint8)
    form = Quantized(Layout((8, 12), 4, "channel"), codes, torch.ones(8))
    form.scale.fill_(NAN)
    return nn.Sequential(FactorizedLinear(form, None))


def offloaded(model):
    model[1].to("meta")


def pretrained(way):
    class Hub(nn.Sequential):
        def save_pretrained(self, _):
            pass

        def push_to_hub(self, _):
            pass

    return lambda folder: getattr(compress(Hub(linear()), FOUR_BITS).model, way)(folder)


def nested(scale, times):
    form = Dense(torch.ones(8, 12))
    for _ in range(times):
        form = Scaled(form, scale)
    return lambda _: nn.Sequential(FactorizedLinear(form, None))


ROWS = [
    Row("save the header's name", save(reserved), "'__metadata__' cannot be saved: safetensors"),
    Row("save a name of no text", save(nameless), "cannot be saved: as a name, surrogates not al"),
    Row("save compiled", compiled, r"is compiled, .* give model._orig_mod, and compile what is"),
    Row("save compiled in part", compiled_in_part, r"give model.1._orig_mod"),
    Row("save a form of 99 parts", save(nested(1.0, 99)), "what is to be saved .* nested more"),
    Row("save offloaded", save(offloaded), "'1.weight' cannot be saved: it is on the meta device"),
    Row("save lazily", save(lambda m: m.append(nn.LazyLinear(2))), "'2.weight' cannot be saved"),
    Row("save sparse", save(registered(torch.eye(3).to_sparse())), "'extra' .*layout torch.sparse"),
    Row("save complex128", save(registered(torch.ones(2, dtype=torch.complex128))), "complex128"),
    Row("save overlaps", save(overlapping), "share some of their memory"),
    Row("save two dtypes of one memory", save(as_other_numbers), "'bits' and '0.weight' share"),
    Row(
        "save a tuple as state", save(state((1, 2))), r"_extra_state' .*\(1, 2\) \(tuple\) at \[\]"
    ),
    Row("save bytes as state", save(state({"a": [b"x"]})), r"b'x' \(bytes\) at \['a', 0\]"),
    Row("save numbers as names", save(state({1: 2})), r"holds \{1: 2\} \(dict\)"),
    Row("save NaN as state", save(state(NAN)), "nan .float. at"),
    Row("save scales that are NaN", save(not_a_number), "layer '0': 8 of 8 numbers in 'scale'"),
    Row("save a result", lambda f: checkpoint.save(Dense, f / "m"), "must be a torch module"),
    Row("save_pretrained", pretrained("save_pretrained"), "Save with lowrank.save"),
    Row("push_to_hub", pretrained("push_to_hub"), "push_to_hub does not know factorizations"),
]
