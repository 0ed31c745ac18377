"""What PyTorch alone and onnxruntime make of exported programs; it knows nothing of this library.

Given a file of cases, as JSON, it loads each file, runs it on inputs, and writes the outputs beside
it.
"""

import json
import sys
from pathlib import Path


class Blocked:
    """A finder that refuses this library."""

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("lowrank", "transformers"):
            raise ImportError(f"{name} is blocked")


def by_torch(path, inputs):
    import torch

    tensors = {name: torch.from_numpy(value) for name, value in inputs.items()}
    # Those without a name of their own go by place.
    by_place = [tensors.pop(name) for name in list(tensors) if name.startswith("input_0")]
    with torch.no_grad():
        found = torch.export.load(path).module()(*by_place, **tensors)
    return {
        name: value.numpy()
        for name, value in (found if isinstance(found, dict) else {"output": found}).items()
        if isinstance(value, torch.Tensor)
    }


def by_onnxruntime(path, inputs):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    names = [one.name for one in session.get_outputs()]
    return dict(zip(names, session.run(names, inputs), strict=True))


RUNNERS = {"torch_export": by_torch, "onnx": by_onnxruntime}
FILES = {"torch_export": "model.pt2", "onnx": "model.onnx"}


def main(path):
    import numpy as np

    sys.meta_path.insert(0, Blocked())
    for case in json.loads(Path(path).read_text()):
        folder, tool = Path(case["folder"]), case["format"]
        for number in range(case["runs"]):
            inputs = dict(np.load(folder / f"inputs_{number}.npz"))
            outputs = RUNNERS[tool](str(folder / "out" / FILES[tool]), inputs)
            np.savez(folder / f"outputs_{number}.npz", **outputs)
    assert not any(name.startswith(("lowrank", "transformers")) for name in sys.modules)


if __name__ == "__main__":
    main(sys.argv[1])
