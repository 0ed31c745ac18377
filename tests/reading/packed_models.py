"""Folders as other tools write them, packed here by the formulas of their formats, code by code."""

import json
from dataclasses import dataclass

import numpy as np
import torch
from architectures import GROUPED, TOKENS, Architecture
from safetensors.torch import save_file
from torch import nn

SIZES = GROUPED | TOKENS | {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 1}
LLAMA = Architecture("LlamaForCausalLM", "LlamaConfig", SIZES, 9, set(), "")
QWEN2 = Architecture(
    *("Qwen2ForCausalLM", "Qwen2Config", SIZES | {"tie_word_embeddings": True}, 8, set(), "")
)


@dataclass
class Codes:
    """Random codes (out, in), and for each group of columns a scale and zero point (out, groups).

    Attributes:
        groups: the group of each column.
    """

    codes: torch.Tensor
    scale: torch.Tensor
    zero: torch.Tensor
    groups: torch.Tensor

    @classmethod
    def of(cls, weight, bits, size, order=False, symmetric=False):
        rows, columns = weight.shape
        size = columns if size == -1 else size
        count = -(-columns // size)
        groups = torch.arange(columns) // size
        if order:
            groups = groups[torch.randperm(columns)]
        codes = torch.randint(0, 2**bits, (rows, columns))
        scale = (torch.rand(rows, count) * 0.1 / 2**bits + 0.01 / 2**bits).half()
        zero = torch.randint(1, 2**bits, (rows, count))
        if symmetric:
            zero = torch.full_like(zero, 2 ** (bits - 1))
        return cls(codes, scale, zero, groups)

    def dense(self):
        """The matrix, in float64."""
        zero, scale = self.zero[:, self.groups], self.scale.double()[:, self.groups]
        return (self.codes - zero) * scale


def stream(values, bits):
    """Integers of 32 bits that hold values one after the other, the lowest bit first."""
    total = sum(int(value) << (bits * place) for place, value in enumerate(values))
    count = -(-len(values) * bits // 32)
    found = [(total >> (32 * i)) & 0xFFFFFFFF for i in range(count)]
    return np.array(found, dtype=np.uint32).view(np.int32)


def rows_of(matrix, bits):
    return torch.from_numpy(np.stack([stream(row.tolist(), bits) for row in matrix]))


def gptq(one, bits, less_one=1):
    """As AutoGPTQ: codes packed along the input, zero points less one along the output."""
    return {
        "qweight": rows_of(one.codes.T.T, bits).T.contiguous(),
        "qzeros": rows_of((one.zero - less_one).T, bits),
        "scales": one.scale.T.contiguous(),
        "g_idx": one.groups.int(),
    }


def awq(one, bits=4):
    """As AutoAWQ: eight outputs in an integer, the place of each by its map of the order."""
    order = [0, 2, 4, 6, 1, 3, 5, 7]

    def packed(matrix):
        rows, columns = matrix.shape
        found = np.zeros((rows, columns // 8), dtype=np.int64)
        for block in range(columns // 8):
            for place in range(8):
                values = matrix[:, 8 * block + order[place]].numpy().astype(np.int64)
                found[:, block] |= values << (4 * place)
        return torch.from_numpy(found.astype(np.uint32).view(np.int32))

    return {
        "qweight": packed(one.codes.T),
        "qzeros": packed(one.zero.T),
        "scales": one.scale.T.contiguous(),
    }


def compressed_tensors(one, bits, packs=True, symmetric=False, order=False):
    """As compressed-tensors; its own function packs."""
    from compressed_tensors.compressors.pack_quantized.helpers import pack_to_int32

    half = 2 ** (bits - 1)
    codes = (one.codes - half).to(torch.int8)
    zero = (one.zero - half).to(torch.int8)
    found = {"weight_scale": one.scale.float()}
    if packs:
        found |= {"weight_packed": pack_to_int32(codes, bits)}
        found |= {"weight_shape": torch.tensor(codes.shape)}
        zero = pack_to_int32(zero, bits, packed_dim=0).contiguous()
    else:
        found |= {"weight": codes}
    if not symmetric:
        found |= {"weight_zero_point": zero}
    if order:
        found |= {"weight_g_idx": one.groups.int()}
    return found


def write(folder, make, config, pack, codes, dtype=torch.float16):
    """A folder of a model whose linear layers but the head are packed, and the dense model."""
    torch.manual_seed(0)
    model = make().to(dtype)
    tensors = {}
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear) and name != "lm_head":
            one = codes(module.weight)
            module.weight.data = one.dense().to(dtype)
            tensors |= {f"{name}.{end}": tensor for end, tensor in pack(one).items()}
            if module.bias is not None:
                module.bias.data.normal_()
                tensors[f"{name}.bias"] = module.bias.data.clone()
    state = model.state_dict()
    if model.config.tie_word_embeddings:
        del state["lm_head.weight"]
    plain = {n: t for n, t in state.items() if n.rpartition(".")[0] not in _packed(tensors)}
    folder.mkdir(exist_ok=True)
    save_file(tensors | plain, folder / "model.safetensors", metadata={"format": "pt"})
    model.config.architectures = [type(model).__name__]
    fields = model.config.to_dict() | {"quantization_config": config}
    (folder / "config.json").write_text(json.dumps(fields, default=str))
    return model


def _packed(tensors):
    return {name.rpartition(".")[0] for name in tensors}


def groups_of(bits, size=None, symmetric=False, form="pack-quantized", **others):
    strategy = "channel" if size is None else "group"
    weights = {"num_bits": bits, "type": "int", "symmetric": symmetric, "strategy": strategy}
    weights |= {"group_size": size, "dynamic": False, "observer": "minmax"} | others
    group = {"targets": ["Linear"], "weights": weights, "input_activations": None}
    return {
        "quant_method": "compressed-tensors",
        "format": form,
        "quantization_status": "compressed",
        "config_groups": {"group_0": group},
        "ignore": ["lm_head"],
    }
