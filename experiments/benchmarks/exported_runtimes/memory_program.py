"""The memory of one runtime in a process of its own; prints it as JSON.

The libraries are imported before the first number is read. Other runtimes than lowrank cannot
import lowrank.
"""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path

from safetensors.numpy import load_file

from experiments.benchmarks.exported_runtimes import runtimes
from experiments.benchmarks.process_memory import PEAK, RESIDENT, status


def forget_peak() -> None:
    """Let the peak of this process start from what it holds now."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return


def main() -> None:
    """Load and run what the request says."""
    request = json.loads(Path(sys.argv[1]).read_text("utf-8"))
    runtime = getattr(runtimes, request["class"])(**request["fields"])
    network = None
    if request["task"]:
        from experiments.benchmarks.exported_runtimes.subject import ExportedPart
        from experiments.benchmarks.named_task import task_named

        task = task_named(request["task"])
        network = ExportedPart(request["place"], (), None).network(task)
    if "lowrank" not in runtime.libraries:
        sys.modules["lowrank"] = None  # type: ignore[assignment]
    for module in request["modules"]:
        importlib.import_module(module)
    inputs = load_file(request["inputs"])
    # Without it a process of onnxruntime does not hold PyTorch.
    if "torch" in runtime.libraries:
        import torch

        torch.set_num_threads(request["threads"])
        torch.set_grad_enabled(False)
        inputs = {name: torch.from_numpy(value) for name, value in inputs.items()}
    forget_peak()
    before = status(RESIDENT)
    run = runtime.load(Path(request["folder"]), network, request["threads"])
    for _ in range(3):
        run(inputs)
    print(json.dumps({"before": before, "peak": status(PEAK)}))


if __name__ == "__main__":
    main()
