"""Bad folders of PEFT, and models that cannot be written as one."""

import json

import torch
from files import pickled
from made_networks import trained
from row import Row
from safetensors.torch import load_file, save_file
from torch import nn

from lowrank.compression.compress import compress
from lowrank.decomposers import (
    DoRA,
    EntropyCodedQuantization,
    LoRA,
    MagnitudePruning,
    Quantization,
    TruncatedSVD,
)
from lowrank.export.peft import export_peft, load_peft
from lowrank.factorizations import Sum
from lowrank.recovery import compress_adapters

VERA = {"peft_type": "VERA", "bias": "vera_only"}
CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
BIAS, OWN_BIAS = "base_model.model.7.bias", "base_model.model.0.base_layer.bias"
DOWN, UP = (f"base_model.model.0.lora_{name}.weight" for name in "AB")


def network(width=8):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, width), nn.ReLU(), nn.Linear(width, 4))


def no_bias():
    model = network()
    model[0].bias = None
    return model


PLAIN, CODES = LoRA(2, 4), LoRA(2, 4, base=Quantization(4))


def adapted(method=PLAIN, model=None, where=None):
    return trained(compress(model or network(), method, where=where).model)


def export(method, model=None, base=None, where=None):
    """Write what a method makes of a model."""
    dense = model or network()
    other = dense if base is None else base
    return lambda folder: export_peft(adapted(method, dense, where), folder, other)


def dilated(**fields):
    return nn.Sequential(nn.Conv2d(4, 8, 3, **fields))


def table():
    return nn.Sequential(nn.Embedding(6, 8))


def attention():
    return nn.Sequential(nn.MultiheadAttention(8, 2))


def model_of(change, base_change=None):
    """Write an adapted model after a change of it."""

    def act(folder):
        base, model = network(), adapted()
        change(model)
        return export_peft(model, folder, base)

    return act


def both_bases(model):
    model[0].factorization.terms[0].requires_grad_(True)


def ones(value=1):
    other = network()
    for layer in (other[0], other[2]):
        nn.init.constant_(layer.weight, value)
    return other


def diverged(model):
    nn.init.constant_(model[0].factorization.terms[1].term.factors[0].weight, float("nan"))


def diverged_bias(model):
    nn.init.constant_(model[0].bias, float("inf"))


def sparse_sum(model):
    weight = network()[0].weight.detach()
    low_rank, rest = TruncatedSVD(2).decompose(weight), MagnitudePruning(0.5).decompose(weight)
    model[0].factorization = Sum(low_rank, rest)


def two_dropouts(model):
    model[2].factorization.terms[1].dropout = 0.5


class Held(nn.Module):
    """A parameter beside an adapted layer, which no module of its own holds."""

    def __init__(self):
        super().__init__()
        self.shift, self.layer = nn.Parameter(torch.zeros(6)), nn.Linear(6, 4)


class Twice(nn.Module):
    """One module under two names."""

    def __init__(self):
        super().__init__()
        self.first = self.second = nn.Linear(4, 4)


class Ends(nn.Module):
    """A module whose name is the end of another one's."""

    def __init__(self):
        super().__init__()
        self.layer, self.head, self.old_head = (nn.Linear(4, 4) for _ in range(3))


def saved_head(folder):
    base = Ends()
    model = compress(base, LoRA(2, 4), where="layer").model
    nn.init.ones_(model.head.weight)
    return export_peft(model, folder, base)


def read(change=lambda config, tensors: None, base=None):
    """Read a folder after a change of its config and tensors."""

    def act(folder):
        export_peft(adapted(), folder, network())
        config, tensors = json.loads((folder / CONFIG).read_text()), load_file(folder / WEIGHTS)
        changed = change(config, tensors)
        (folder / CONFIG).write_text(changed or json.dumps(config))
        save_file(tensors, folder / WEIGHTS)
        return load_peft(base or network(), folder)

    return act


def field(**fields):
    return read(lambda config, tensors: config.update(fields))


def tensor(name, value):
    return read(lambda config, tensors: tensors.__setitem__(name, value))


def field_and(name, value, key):
    """A field, and a bias by a name."""

    def change(config, tensors):
        config[name] = value
        tensors[key] = torch.ones(8)
        for place, layer in (("0.base_layer", 8), ("2.base_layer", 4)):
            tensors[f"base_model.model.{place}.bias"] = torch.ones(layer)

    return read(change)


def two_biases(folder):
    base = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    base[1].bias = base[0].bias
    export_peft(adapted(PLAIN, base), folder, base)
    config, tensors = json.loads((folder / CONFIG).read_text()), load_file(folder / WEIGHTS)
    for number in range(2):
        tensors[f"base_model.model.{number}.base_layer.bias"] = torch.full((4,), float(number))
    (folder / CONFIG).write_text(json.dumps(config | {"bias": "all"}))
    save_file(tensors, folder / WEIGHTS)
    return load_peft(base, folder)


def adalora(masks=None, **fields):
    return field(peft_type="ADALORA", init_r=2, rank_pattern=masks, **fields)


def of_attention(folder, names, **fields):
    """Read a folder of adapters of an attention's projections."""
    model = nn.ModuleDict({"a": nn.MultiheadAttention(8, 2), "b": nn.Linear(8, 8)})
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["a"]}
    tensors = {}
    for name, rows in names.items():
        tensors[f"base_model.model.{name}.lora_A.weight"] = torch.ones(2, 8)
        tensors[f"base_model.model.{name}.lora_B.weight"] = torch.ones(rows, 2)
    (folder / CONFIG).write_text(json.dumps(config | fields))
    save_file(tensors, folder / WEIGHTS)
    return load_peft(model, folder)


def half_attention(folder):
    return of_attention(folder, {"a.base_layer.out_proj": 8})


def projection_alone(folder):
    return of_attention(folder, {"a.out_proj": 8}, target_modules=["out_proj"])


def later_attention(folder):
    both = {"a": 24, "a.base_layer.out_proj": 8}
    return of_attention(folder, both, peft_version="0.22.0")


def attention_lengths(folder):
    return of_attention(folder, {"a": 24, "a.base_layer.out_proj": 8}, use_dora=True)


def without(name):
    def change(config, tensors):
        del tensors[name]

    return read(change)


def without_layer(config, tensors):
    for name in [name for name in tensors if name.startswith("base_model.model.0.")]:
        del tensors[name]


def only_pickle(folder):
    export_peft(adapted(), folder, network())
    (folder / WEIGHTS).unlink()
    (folder / "adapter_model.bin").write_bytes(pickled({"a": torch.ones(1)}))
    return load_peft(network(), folder)


def pickle_by_another_name(folder):
    export_peft(adapted(), folder, network())
    (folder / WEIGHTS).write_bytes(pickled({"a": torch.ones(1)}))
    return load_peft(network(), folder)


def cut(folder):
    export_peft(adapted(), folder, network())
    (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:-8])
    return load_peft(network(), folder)


def other_base(folder):
    export_peft(adapted(), folder, network())
    other = network()
    nn.init.ones_(other[2].weight)
    return load_peft(other, folder)


def joins_groups(folder):
    base = nn.Sequential(nn.Conv2d(4, 8, 3, groups=2))
    export_peft(adapted(LoRA(2, 4), base), folder, base)
    tensors = load_file(folder / WEIGHTS)
    tensors = {name: value + 1 for name, value in tensors.items()}
    save_file(tensors, folder / WEIGHTS)
    return load_peft(base, folder)


def many_names(folder):
    names = {f"x{number}": torch.ones(1) for number in range(1000)}
    return read(lambda config, tensors: tensors.update(names))(folder)


def endless_name(folder):
    return tensor(f"base_model.model.{'a' * 9999}", torch.ones(1))(folder)


def grouped_lengths(folder):
    base = nn.Sequential(nn.Conv2d(4, 8, 3, groups=2))
    export_peft(adapted(PLAIN, base), folder, base)
    config = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps(config | {"use_dora": True}))
    return load_peft(base, folder)


def zero_row(folder):
    base = network()
    nn.init.zeros_(base[0].weight[1])
    return export_peft(compress(base, DoRA(PLAIN)).model, folder, base)


def base_folder_is_there(folder):
    (folder / "base").mkdir()
    return export(LoRA(2, 4, base=Quantization(2)))(folder)


def smaller(**given):
    return lambda _: compress_adapters(adapted(), **given)


EXPORTS = [
    Row("low rank alone", export(TruncatedSVD(2)), r"layer '0' .*LowRank 6→2→8.*no base"),
    Row("a sparse sum", model_of(sparse_sum), r"layer '\d' .*Sum.*is trained"),
    Row("entropy codes", export(EntropyCodedQuantization(3)), r"layer '0' .*no base"),
    Row("codes alone", export(Quantization(4)), "layer '0' .*no base with a low-rank adapter"),
    Row("one layer without adapter", export({"0": LoRA(2, 4), "2": Quantization(4)}), "layer '2'"),
    Row("a dense model", lambda folder: export_peft(network(), folder, network()), "no layer"),
    Row("a compressed base", lambda f: export_peft(adapted(), f, adapted()), "give the dense"),
    Row("no model", lambda folder: export_peft({}, folder, network()), "model is a dict"),
    Row("no base", lambda folder: export_peft(adapted(), folder, None), "base is a NoneType"),
    Row("a base of another width", export(LoRA(2, 4), base=network(9)), r"layer '0' .*base"),
    Row("a base with other layers", export(LoRA(2, 4), base=nn.Sequential()), "no layer '0'"),
    Row("a base without bias", export(LoRA(2, 4), base=no_bias()), r"0\.bias.* besides"),
    Row("a base in other bits", export(LoRA(2, 4), base=network().half()), "torch.float16"),
    Row("another dense base", export(PLAIN, base=ones()), "frozen weight is another one"),
    Row(
        "another base of codes", export(LoRA(2, 4, base=Quantization(4)), base=ones(-1)), "another"
    ),
    Row(
        "a base without numbers",
        lambda f: export_peft(adapted(), f, network().to("meta")),
        "no num",
    ),
    Row("an adapter that diverged", model_of(diverged), "layer '0' .* not finite"),
    Row("a bias that diverged", model_of(diverged_bias), r"0\.base_layer\.bias' .* not finite"),
    Row("a trained base", model_of(both_bases), "layer '0' .*is trained: a base is frozen"),
    Row("two dropouts", model_of(two_dropouts), "layer '0' has dropout 0.0 and layer '2' 0.5"),
    Row("dilation", export(LoRA(2, 4), dilated(dilation=2)), r"leaves the dilation \(2, 2\) out"),
    Row(
        "padding by reflection",
        export(LoRA(2, 4), dilated(padding=1, padding_mode="reflect")),
        "pads .* by zeros, and not by 'reflect'",
    ),
    Row("lengths of rows of a table", export(DoRA(PLAIN), table()), "gives the columns"),
    Row("lengths of grouped kernels", export(DoRA(PLAIN), dilated(groups=2)), "regard to groups"),
    Row("the length of a row of zeros", zero_row, "layer '0' .* row of zeros"),
    Row("lengths of one layer", export({"0": DoRA(PLAIN), "2": PLAIN}), "has a DoRA True and"),
    Row("packed attention", export(LoRA(2, 4), attention(), where="0"), "no place for an adapter"),
    Row("a projection that is read", export(LoRA(2, 4), attention(), where="0.out_proj"), "never"),
    Row(
        "another view of a kernel",
        export(LoRA(2, 4, base=MagnitudePruning(pattern="2:4")), dilated()),
        "channels_last",
    ),
    Row("a model that is a layer", export(LoRA(2, 4), nn.Linear(4, 4)), "the adapted layer itself"),
    Row("one module, two names", export(LoRA(2, 4), Twice()), r"\['first', 'second'\]"),
    Row("a parameter of the whole", export(LoRA(2, 4), Held()), "'shift' differs"),
    Row("ends of names", saved_head, r"\['head'\] differ .* \['old_head'\]"),
    Row("a base that is there", base_folder_is_there, "is there already"),
    Row("a flag that is none", lambda f: export_peft(adapted(), f, network(), rslora=1), "rslora"),
    Row("no folder", lambda _: export_peft(adapted(), 3, network()), "folder=3"),
]
READS = [
    Row("a pickle", only_pickle, r"adapter_model\.bin is a pickle"),
    Row("a pickle of another name", pickle_by_another_name, "is a pickle"),
    Row("cut off", cut, "no whole safetensors file"),
    Row("no JSON", read(lambda config, tensors: "{"), "is not JSON"),
    Row("a list", read(lambda config, tensors: "[1]"), "must be a mapping"),
    Row("IA3", field(peft_type="IA3"), "peft_type is 'IA3'"),
    Row("LoHa", field(peft_type="LOHA"), "peft_type is 'LOHA'"),
    Row("a prefix", field(peft_type="PREFIX_TUNING"), "peft_type is 'PREFIX_TUNING'"),
    Row("no type", read(lambda config, tensors: config.pop("peft_type") and None), "is None"),
    Row("an unknown part", field(kasa_config={"a": 1}), "kasa_config=.* is a part .* not known"),
    Row("whole parameters", field(target_parameters=["0.weight"]), "target_parameters"),
    Row("replicated layers", field(layer_replication=[[0, 1]]), "layer_replication"),
    Row("other biases", field(bias="vera_only"), r"one of \('none', 'all', 'lora_only'\)"),
    Row("biases that are not there", without(OWN_BIAS), r"the file lacks '0\.bias', a bias"),
    Row("a bias too much", field_and("bias", "lora_only", BIAS), r"'7\.bias' is a part .* no bias"),
    Row("a bias of no layer", field_and("bias", "all", BIAS), r"'7\.bias' is a part .* no bias"),
    Row(
        "a bias by another name",
        field_and("bias", "all", "base_model.model.0.bias"),
        r"'0\.bias' is a part .* not known",
    ),
    Row("two values of one bias", two_biases, "other numbers for '1.bias' than for '0.bias'"),
    Row("AdaLoRA of modules", adalora(), "is a part of the adapter that is not known"),
    Row("masks of another rank", adalora({"0.lora_E": [True]}), r"lora_E is \[True\]: .* 2 times"),
    Row("masks of numbers", adalora({"0.lora_E": [1, 0]}), r"lora_E is \[1, 0\]: .* true or false"),
    Row("masks of other names", adalora({"0": [True] * 2}), "has '0', and names end with lora_E"),
    Row("AdaLoRA of directions", adalora(use_dora=True), "use_dora=True is a part"),
    Row("half an attention", half_attention, "layer 'a.out_proj': PEFT adapts it with 'a' around"),
    Row("a projection alone", projection_alone, "'a' reads and never calls"),
    Row("attention of a later release", later_attention, "is of PEFT '0.22.0', and up to 0.21"),
    Row("directions of attention", attention_lengths, "DoRA computes something else: .* attention"),
    Row("a start that changes the base", field(init_lora_weights="pissa"), "changes the base"),
    Row("alpha 0", field(lora_alpha=0), r"lora_alpha is 0\.0"),
    Row("alpha 0 of one layer", field(alpha_pattern={"^0": 0}), r"\^0 is 0\.0"),
    Row("rank 0", field(r=0), "r is 0"),
    Row("a rank that is true", field(r=True), "r is True"),
    Row("alpha infinite", field(lora_alpha=float("inf")), "is not JSON"),
    Row("alpha beyond float32", field(lora_alpha=1e300), "scale=5e.299 must be finite in float32"),
    Row("a factor that diverged", tensor(UP, torch.ones(8, 2) / 0), "lora_B.weight has numbers"),
    Row("a layer that is excluded", field(exclude_modules=["2"]), "adapter of '2', which .*exclud"),
    Row("a slow exclusion", field(exclude_modules="(a+)+b"), "exclude_modules is .* forever"),
    Row("layers of other numbers", field(layers_to_transform=[0]), "adapter of '0', which"),
    Row("a number that is none", field(layers_to_transform=["0"]), "layers_to_transform is '0'"),
    Row(
        "a slow stack",
        field(layers_to_transform=[0], layers_pattern="(a+)+b"),
        "layers_pattern is .* forever",
    ),
    Row("a stack alone", field(layers_pattern="h"), "left out without layers_to_transform"),
    Row(
        "numbers beside an expression",
        field(layers_to_transform=[0], target_modules=".*"),
        "left out where target_modules is a regular expression",
    ),
    Row("a start of another word", field(init_lora_weights="PISSA"), "or is not known: those"),
    Row("a bias of factors", field(lora_bias=True), "lora_bias=True is a part"),
    Row("rows of a table", field(trainable_token_indices=[0]), "trainable_token_indices=.* is a"),
    Row("tied adapters", field(ensure_weight_tying=True), "ensure_weight_tying=True is a part"),
    Row("dropout 1", field(lora_dropout=1), "lora_dropout is 1.0"),
    Row("a flag that is a text", field(use_dora="yes"), "use_dora is 'yes': it must be true"),
    Row("a rank above the layer's", field(r=7), "layer '0': it has an adapter of rank 7, above"),
    Row("another rank", field(r=3), r"layer '0': lora_A.weight is \(2, 6\), and \(3, 6\)"),
    Row(
        "lengths that are not there",
        field(use_dora=True),
        "layer '0': .* where .*magnitude",
    ),
    Row("all linear layers", field(target_modules="All-Linear"), "target_modules is 'All-Linear'"),
    Row("no target", field(target_modules=[]), "does not name"),
    Row("a layer too much", field(target_modules=["0"]), "adapter of '2', which .* does not name"),
    Row("a layer too few", read(without_layer), "no adapter of layer '0'"),
    Row("no regular expression", field(target_modules="(0|2"), "no regular expression"),
    Row("a slow expression", field(target_modules="(a+)+b"), "may take forever"),
    Row("another slow expression", field(target_modules="a?" * 30 + "a" * 30), "may take forever"),
    Row("looking ahead", field(target_modules="(?=a)0|2"), "may take forever"),
    Row("an escaped escape", field(target_modules=r"(a*\\)*0"), "may take forever"),
    Row("too many patterns", field(rank_pattern={f"x{i}": 2 for i in range(10_001)}), "10001 pat"),
    Row("a slow pattern of ranks", field(rank_pattern={"(0*)*": 2}), "may take forever"),
    Row("half an adapter", without(DOWN), r"layer '0': the file has \['lora_B.weight'\] where"),
    Row(
        "a name of another kind",
        tensor("0.lora_A", torch.ones(1)),
        r"the file has \['0.lora_A'\] where \[\] belong",
    ),
    Row("many names", many_names, r"and 995 more where \[\] belong"),
    Row("a name that never ends", endless_name, "aaa' is a part"),
    Row(
        "a layer that is not there", tensor(DOWN.replace("0", "7"), torch.ones(2, 6)), "adapts '7'"
    ),
    Row("a layer without weight", tensor(DOWN.replace("0", "1"), torch.ones(2, 6)), "adapts '1'"),
    Row("a bias of an adapter", tensor(UP.replace("weight", "bias"), torch.ones(8)), "not known"),
    Row("transposed", tensor(UP, torch.ones(2, 8)), r"lora_B.weight is \(2, 8\)"),
    Row("integers", tensor(UP, torch.ones(8, 2, dtype=torch.int8)), "weight is of torch.int8"),
    Row("another base", other_base, "layer '2' of the model is not that of the base"),
    Row("a wider base", read(base=network(9)), r"is \(8, 2\), and \(9, 2\)"),
    Row("a module that is not saved", field(modules_to_save=["2"]), "does not name|the file lacks"),
    Row("lengths of a grouped kernel", grouped_lengths, "without regard to groups"),
    Row("VeRA without its factors", field(**VERA, save_projection=False), "not in the f"),
    Row("VeRA by name alone", field(**VERA), "not known here"),
    Row("groups joined", joins_groups, "layer '0': its adapter joins the 2 groups"),
    Row("no model to read into", lambda folder: load_peft({}, folder), "model is a dict"),
]
SMALLER = [
    Row("nothing asked for", smaller(), "give a rank, a decomposer"),
    Row("compressed to rank 0", smaller(rank=0), "rank"),
    Row("a method by name", smaller(decomposer="int8"), "decomposer"),
    Row("a norm of another layer", smaller(rank=1, norms={"1": 2}), r"norms of \['1'\]"),
    Row("a norm that is none", smaller(rank=1, norms={"0": 2}), "the norm of layer '0'"),
    Row("a method that does not fit", smaller(decomposer=TruncatedSVD(3)), "layer '0': .*rank"),
    Row("no adapter", lambda _: compress_adapters(network(), rank=1), "no layer of the model"),
]
ROWS = EXPORTS + READS + SMALLER
