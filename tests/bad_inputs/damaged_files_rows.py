"""What is no file of a model."""

import pickle

import hostile
import torch
from files import NOT_WHOLE, linear, pickled, saved
from row import Row
from safetensors.torch import save_file
from torch import nn

from lowrank.calibration import Calibration
from lowrank.calibration.statistics import Statistics
from lowrank.export import checkpoint

WEIGHTS = {"weight": torch.ones(2)}


def file_of(content):
    """Load a file of these bytes, or of what is made of those of a valid one."""

    def act(folder):
        path = saved(folder)
        path.write_bytes(content(path.read_bytes()) if callable(content) else content)
        return checkpoint.load(path, nn.Sequential(linear()))

    return act


def foreign(metadata=None):
    def act(folder):
        save_file({"0.weight": torch.ones(8, 12)}, folder / "m", metadata=metadata)
        return checkpoint.load(folder / "m", nn.Sequential(linear()))

    return act


def statistics_as_model(folder):
    Calibration({"0": Statistics(torch.ones(12), None, 1)}, {}).save(folder / "s")
    return checkpoint.load(folder / "s", nn.Sequential(linear()))


def number_flipped(data):
    return data[:-1] + bytes([data[-1] ^ 1])


def other_length(length):
    return lambda data: length.to_bytes(8, "little") + data[8:]


def without_hash(data):
    header, body = hostile.split(data)
    del header["__metadata__"]["hash"]
    return hostile.join(header, body)


def unknown_dtype(data):
    header, body = hostile.split(data)
    header["0.bias"]["dtype"] = "F8_E4M3FNUZ"
    header["0.bias"]["shape"] = [32]
    return hostile.join(header, body)


ROWS = [
    Row("empty file", file_of(b""), NOT_WHOLE),
    Row("text file", file_of(b"no such thing"), NOT_WHOLE),
    Row("cut in its length", file_of(lambda data: data[:5]), NOT_WHOLE),
    Row("cut in its header", file_of(lambda data: data[:100]), NOT_WHOLE),
    Row("cut in its numbers", file_of(lambda data: data[:-1]), NOT_WHOLE),
    Row("longer than its header says", file_of(lambda data: data + b"\0"), NOT_WHOLE),
    Row("header longer than the file", file_of(other_length(10**6)), NOT_WHOLE),
    Row("header of exabytes", file_of(other_length(2**63)), NOT_WHOLE),
    Row("no header", file_of(other_length(0)), NOT_WHOLE),
    Row("one bit of a number flipped", file_of(number_flipped), "is damaged: its content is not"),
    Row("hash taken away", file_of(without_hash), "is damaged"),
    Row("dtype that nobody saves", file_of(unknown_dtype), "dtype that is not known: .'0.bias'"),
    Row("zipped pickle", file_of(pickled(WEIGHTS)), "is a pickle, .* never opened.*safetensors"),
    Row("old pickle", file_of(pickled(WEIGHTS, zipped=False)), "is a pickle"),
    Row("any pickle", file_of(pickle.dumps({"a": 1})), "is a pickle"),
    Row("a folder", lambda f: checkpoint.load(f, nn.Sequential(linear())), "is no file"),
    Row("tensors of others", foreign(), "holds no model saved by lowrank.save"),
    Row("metadata of others", foreign({"format": "pt"}), "holds no model saved by"),
    Row("own key of others", foreign({"lowrank": "1.0"}), "must be a mapping of fields, not 1.0"),
    Row("statistics as a model", statistics_as_model, "holds no model .*, but 'statistics'"),
]
