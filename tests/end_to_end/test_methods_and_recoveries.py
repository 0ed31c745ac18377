"""Every method with every recovery that trains: what was compressed stays so while it trains."""

import pytest
import torch
from digits_task import TASK
from sweeps import ROOT

import lowrank
from experiments.parts import make_parts
from lowrank.compression.compress import approximated, as_allocation
from lowrank.factorizations import Sparse
from lowrank.factorizations.factorization import adapters
from lowrank.recovery import FineTune, Gradual, LearningCompression

pytestmark = pytest.mark.usefixtures("composing")

# The first joins layers of a transformer; of the others, which take seconds for each weight, what
# they are made of is here.
SLOW = {"mix", "quantized_low_rank", "entropy_coded", "alps", "pruned_quantized"}
# The same classes with other options are here already.
VARIANTS = {
    "alps_nm",
    "asvd",
    "fwsvd",
    "quantease",
    "quantization_mse",
    "rtn_weighted",
    "svd_channel",
}
OTHERS = {"shared_basis"} | SLOW | VARIANTS
METHODS = sorted({path.stem for path in ROOT.glob("conf/method/*.yaml")} - OTHERS)
FEW = {"epochs": 2, "learning_rate": 0.01, "batch_size": 500}
RECOVERIES = [
    FineTune(**FEW),
    Gradual(renewals=2, power=1, **FEW),
    LearningCompression(steps=1, **FEW),
]
# The numbers of a weight decide over their forms.
BY_NUMBERS = {
    *("adapter_ranks", "block_low_rank", "deep_compression", "magnitude_global", "monarch", "owl"),
    *("rank_search", "robust_pca", "sparse_factors", "svd_energy", "svd_global"),
}


@pytest.fixture(params=METHODS)
def parts(request, composer):
    return make_parts(composer.settings([f"method={request.param}"]))


@pytest.fixture
def compressed(parts):
    def made():
        needed = parts.norm.needs_data or as_allocation(parts.method).needs_data
        data = TASK if needed else None
        return approximated(TASK.model(), parts.method, None, TASK.example(), parts.norm, data)

    return made


def test_what_was_compressed_stays_so(parts, compressed, request, tmp_path):
    name = request.node.callspec.params["parts"]
    x = torch.cat([batch.inputs[0] for batch in TASK.split("validation").batches(500)])
    before: dict[str, tuple[str, torch.Tensor]] = {}
    for recovery in RECOVERIES:
        result, dense = compressed(), TASK.model()
        forms = {n.name: result.model.get_submodule(n.name).factorization for n in result.layers}
        before = before or {n: (form.describe(), form.to_dense()) for n, form in forms.items()}
        if recovery.begins_dense and any(map(adapters, forms.values())):
            with pytest.raises(ValueError, match="would train the frozen base of the adapters"):
                recovery.recover_compressed(result, TASK)
            continue
        found = recovery.recover_compressed(result, TASK)
        twin = recovery.recover(dense, TASK)
        assert len(found["losses"]) == len(twin["losses"]) == recovery.epochs
        for layer in result.layers:
            form = result.model.get_submodule(layer.name).factorization
            said, matrix = before[layer.name]
            assert layer.bytes == form.nbytes
            if name not in BY_NUMBERS:
                assert layer.factorization == said
            if isinstance(recovery, FineTune) and isinstance(form, Sparse):
                assert not form.to_dense()[matrix == 0].any()
        # Codes are on their levels, and masks in the index: the file holds the whole model.
        path = tmp_path / f"{type(recovery).__name__}.safetensors"
        lowrank.save(result.model, path)
        assert torch.equal(lowrank.load(path, TASK.model())(x), result.model(x))
