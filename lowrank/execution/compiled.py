"""A kernel by `torch.compile`; it takes seconds to compile each layer, so only on request."""

from __future__ import annotations

from types import FunctionType
from typing import Any, ClassVar

import torch
from torch import Tensor

from lowrank.execution.kernel import Kernel, Prepared, Work


class CompiledKernel(Kernel):
    """`torch.compile` of the factorization as it runs itself; needs a C++ compiler on a CPU.

    In no default list: `Search(kernels=(*KERNELS, CompiledKernel()))` asks for it. A sparse or
    quantized leaf is made dense inside the compiled code, in every pass. Inputs of another shape
    compile anew.
    """

    name: ClassVar[str] = "compiled"

    def refusal(self, work: Work) -> str:
        return ""

    def prepare(self, work: Work) -> Prepared:
        form, operation, bias = work.factorization, work.operation, work.bias

        def run(x: Tensor) -> Tensor:
            return form(x, operation, bias)

        compiled: dict[torch.Size, Any] = {}

        def of_its_shape(x: Tensor) -> Tensor:
            if x.shape not in compiled:
                own = _with_own_code(run)
                compiled[x.shape] = torch.compile(own, fullgraph=True, dynamic=False)
            return compiled[x.shape](x)

        with torch.no_grad():
            of_its_shape(work.x)
        return Prepared(of_its_shape, 0)


def _with_own_code(function: Any) -> Any:
    """The same function with a code object of its own.

    Compiled code is kept by code object, and after eight kinds of inputs to one of them no further
    one is compiled; all functions made in one place share theirs.
    """
    code = function.__code__.replace()
    return FunctionType(
        code, function.__globals__, function.__name__, function.__defaults__, function.__closure__
    )
