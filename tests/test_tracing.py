"""Every form can be compiled, exported and traced, before it ran and after it did."""

import copy
import warnings

import pytest
import torch
from made_tensors import tensor_bytes
from test_contract import INNER, OUT, ROWS, structured
from torch import nn
from torch.export import Dim, ExportedProgram

from lowrank.factorizations import Factorization, Quantized
from lowrank.model.factorized import FactorizedConvolution, FactorizedEmbedding, FactorizedLinear

# One row of the table for each set of classes that it shows.
FORMS = {frozenset(row.kinds): name for name, row in reversed(ROWS.items())}
FORMS[frozenset({"coded"})] = "pruned with codebook, Huffman code"
every_form = pytest.mark.parametrize("name", FORMS.values())
after_a_run = pytest.mark.parametrize("ran", [False, True], ids=["fresh", "ran"])

X = torch.randn(2, INNER, generator=torch.Generator().manual_seed(0))


def layer(name: str) -> FactorizedLinear:
    return FactorizedLinear(ROWS[name].decompose(structured(torch.float32)), None).eval()


@pytest.fixture(autouse=True)
def quiet():
    """The compilers warn of themselves."""
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        yield


def compiled(module: nn.Module, x: torch.Tensor) -> nn.Module:
    torch._dynamo.reset()
    return torch.compile(module, backend="eager", fullgraph=True)


def exported(module: nn.Module, x: torch.Tensor) -> nn.Module:
    return program_of(module, x, strict=False).module()


def strictly_exported(module: nn.Module, x: torch.Tensor) -> nn.Module:
    return program_of(module, x, strict=True).module()


def program_of(module: nn.Module, x: torch.Tensor, strict: bool) -> ExportedProgram:
    return torch.export.export(module, (x,), dynamic_shapes=({0: Dim.AUTO},), strict=strict)


def traced(module: nn.Module, x: torch.Tensor) -> nn.Module:
    return torch.jit.trace(module, (x,))


every_way = pytest.mark.parametrize("record", [compiled, exported, strictly_exported, traced])


@every_form
@after_a_run
@every_way
def test_what_is_recorded_gives_the_outputs(name, ran, record):
    module = layer(name)
    expected = X @ module.factorization.to_dense().T
    if ran:
        module(X)
    found = record(module, X)
    for _ in range(2):
        torch.testing.assert_close(found(X), expected, rtol=1e-4, atol=1e-3)
    if record in (exported, strictly_exported):
        more, wider = torch.cat([X, X, X[:1]]), torch.cat([expected, expected, expected[:1]])
        torch.testing.assert_close(found(more), wider, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("name", ["magnitude", "magnitude 2:4", "GPTQ", "entropy coded"])
def test_a_program_holds_what_is_stored_and_no_more(name):
    module = layer(name)
    program = program_of(module, X, strict=True)
    held = [*program.state_dict.values(), *program.constants.values()]
    assert sum(tensor.nbytes for tensor in held) == tensor_bytes(module)


class Reads(nn.Module):
    """A module that reads the weight of its layer, as attention does."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.to(self.inner.weight.dtype) @ self.inner.weight.T


@pytest.mark.parametrize("name", ["svd", "quantized 8 bits", "entropy coded", "magnitude", "LoRA"])
@after_a_run
@every_way
def test_a_weight_that_is_read_is_recorded_too(name, ran, record):
    module = Reads(layer(name))
    expected = X @ module.inner.factorization.to_dense().T
    if ran:
        module(X)
    torch.testing.assert_close(record(module, X)(X), expected, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("name", ["entropy coded", "SVD in half precision", "Monarch"])
@every_way
def test_convolutions_and_tables_are_recorded(name, record):
    form = ROWS[name].decompose(structured(torch.float32))
    convolution = FactorizedConvolution(nn.Conv2d(4, OUT, 3, bias=False), form, "channel").eval()
    x = torch.randn(1, 4, 5, 6, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(record(convolution, x)(x), convolution(x), rtol=1e-4, atol=1e-3)
    table, index = FactorizedEmbedding(form, None).eval(), torch.tensor([[0, 5], [7, 5]])
    torch.testing.assert_close(record(table, index)(index), table(index), rtol=1e-4, atol=1e-3)


@every_form
def test_training_is_compiled_after_a_run(name):
    module, x = layer(name), X.clone().requires_grad_()
    module(X)
    gradients = []
    with torch.enable_grad():
        for run in (module, compiled(module, X)):
            gradients.append(torch.autograd.grad(run(x).square().sum(), [x, *trained(module)]))
    torch.testing.assert_close(gradients[1], gradients[0])


def trained(module: nn.Module) -> list[torch.Tensor]:
    return [parameter for parameter in module.parameters() if parameter.requires_grad]


@every_form
def test_a_model_that_ran_can_be_copied_and_pickled(name, tmp_path):
    module = layer(name)
    expected = module(X)
    torch.save(module, tmp_path / "model.pt")  # Pickle: torch's, which knows all its dtypes.
    pickled = torch.load(tmp_path / "model.pt", weights_only=False)
    for twin in (copy.deepcopy(module), pickled):
        assert torch.equal(twin(X), expected)


def test_an_exported_entropy_code_is_one_operator_that_decodes_what_is_stored(tmp_path):
    module = layer("entropy coded")
    program = torch.export.export(module, (X,))
    names = [str(node.target) for node in program.graph.nodes if node.op == "call_function"]
    assert names[0] == "lowrank.entropy_coded.default"
    torch.export.save(program, tmp_path / "model.pt2")
    loaded = torch.export.load(tmp_path / "model.pt2").module()
    torch.testing.assert_close(loaded(X), module(X))
    stored = tensor_bytes(module)
    assert sum(tensor.nbytes for tensor in program.state_dict.values()) == stored


def test_a_recording_leaves_the_forms_that_files_name():
    """It makes a class for each module, of the name of the module's own."""
    before = dict(Factorization.types)
    type("Quantized", (Quantized,), {})
    exported(layer("quantized 8 bits"), X)
    assert Factorization.types == before and before["Quantized"] is Quantized


def test_a_compiled_layer_sees_its_codes_change():
    module = layer("quantized 8 bits")
    module(X)
    found = compiled(module, X)
    before = found(X)
    module.factorization.scale.mul_(2)
    torch.testing.assert_close(found(X), 2 * before)


def test_codes_that_a_compiled_program_reads_are_decoded_as_they_are():
    form = ROWS["entropy coded"].decompose(structured(torch.float32))

    def codes(x):
        return x + form.codes.sum()

    torch._dynamo.reset()
    assert torch.equal(torch.compile(codes, backend="eager")(X), codes(X))
