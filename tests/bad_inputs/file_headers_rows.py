"""Headers of files of models, edited by hand."""

from files import header
from row import Row


def without(name):
    def change(own):
        del own[name]

    return header(change)


def having(name, value):
    return header(lambda own: own | {name: value})


def of_layer(**fields):
    def change(own):
        own["layers"][0].update(fields)

    return header(change)


def layer_twice(own):
    own["layers"] *= 2


def kind_of_another(own):
    own["layers"][0]["kinds"][0] = {"kind": "linear", "more": 1}


ROWS = [
    Row("not JSON", header(lambda _: "@deep@"), "is not JSON as written here"),
    Row("a list", header(lambda own: [own]), "must be a mapping of fields"),
    Row("null", header(lambda _: 0), "must be a mapping of fields, not 0"),
    Row("an older format", having("format", 1), "has format 1, this version reads 2 to 4: save it"),
    Row("a later format", having("format", 5), "has format 5, .* a newer lowrank wrote it, so"),
    Row("a format in words", having("format", "3"), "has format '3'"),
    Row("a format that is true", having("format", True), "has format True"),
    Row("no format", without("format"), "has format None"),
    Row("another kind", having("kind", "dataset"), "no model .*, but 'dataset'"),
    Row("no layers", without("layers"), "lacks 'layers'"),
    Row("layers are null", having("layers", None), "layers is None: it must be a list"),
    Row("layers by name", having("layers", {"0": {}}), "layers is .*: it must be a list"),
    Row("layer without fields", having("layers", [[]]), r"layers\[0\] must be a mapping"),
    Row("layer without a form", having("layers", [{}]), r"layers\[0\] lacks 'config'"),
    Row("layer forgotten", having("layers", []), "lacks .'0.weight'. and has"),
    Row("layer twice", header(layer_twice), "'0' is a FactorizedLinear"),
    Row("layer with more", of_layer(more=1), r"has \['more'\] besides"),
    Row("unknown view", of_layer(view="sideways"), "view is 'sideways': it must be one of"),
    Row("view that is a list", of_layer(view=["channel"]), "view is .'channel'."),
    Row("view of kernels for a linear layer", of_layer(view="spatial"), "'0' is .* in the file"),
    Row("modules are text", of_layer(modules="0"), "modules is '0': it must be a list"),
    Row("module is a number", of_layer(modules=[0]), r"modules\[0\] is 0: it must be a text"),
    Row("no modules", of_layer(modules=[], kinds=[]), "one for each module, and some"),
    Row("more modules than kinds", of_layer(modules=["0", "1"]), "one for each module"),
    Row("kind is text", of_layer(kinds=["linear"]), r"kinds\[0\] must be a mapping"),
    Row("kind with more", header(kind_of_another), "'more': 1.* in the file"),
    Row("frozen is null", having("frozen", None), "frozen is None: it must be a list"),
    Row("frozen by number", having("frozen", [1]), r"frozen\[0\] is 1"),
    Row("frozen and unknown", having("frozen", ["9.weight"]), "'9.weight'. are frozen in the file"),
    Row("dtypes of no tensor", having("dtypes", {"float32": ["x"]}), "dtypes.float32 is 'x'"),
    Row("dtype that is no wider", having("dtypes", {"float32": ["0.bias"]}), "in fewer bits than"),
    Row("widened integers", having("dtypes", {"float32": ["0.factorization.codes"]}), "fewer bits"),
    Row("widened to words", having("dtypes", {"text": ["0.bias"]}), r"has \['text'\] besides"),
    Row("same of nothing", having("same", {"a": "b"}), "same.a is 'b': it must be one of"),
    Row("same of itself", having("same", {"0.bias": "0.bias"}), "in the file twice"),
    Row("same is a list", having("same", []), "same must be a mapping"),
    Row("views are null", having("views", None), "views must be a mapping of fields, not None"),
    Row("view without a base", having("views", {"a": {"shape": [], "stride": []}}), "lacks 'base'"),
    Row("extra of nobody", having("extra", {"0._extra_state": {"value": 1, "tensors": []}}), "has"),
    Row("extra without a value", having("extra", {"a": {}}), "extra.a lacks 'tensors'"),
    Row(
        "extra that takes a weight",
        having("extra", {"0.bias": {"value": None, "tensors": [[]]}}),
        r"tensors \['0.bias.0'\] that are not its own",
    ),
]
