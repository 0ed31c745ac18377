"""Damaged records, plans, caches and published weights."""

import json
import os
import shutil
from unittest import mock

import made_records as records
import torch
from files import NAN, pickled
from row import Row
from safetensors.torch import save_file

from lowrank.execution import ExecutionPlan
from lowrank.records import store
from lowrank.tasks import cache, hub

TWICE = {"module.a": torch.ones(2), "a": torch.zeros(3), "b": torch.ones(1)}
WEIGHTS = {"weight": torch.ones(2)}


def record(content):
    def act(folder):
        path = store.save(records.record(), folder)
        path.write_bytes(content(path.read_text()).encode("utf-8", "surrogatepass"))
        return store.load(folder)

    return act


def record_that_is_a_folder(folder):
    path = store.save(records.record(), folder)
    path.unlink()
    path.mkdir()
    return store.exists(path.stem, folder)


def plan_of(text):
    return lambda _: ExecutionPlan.from_json(text)


def plan(**fields):
    own = {"accuracy": "exact", "threads": 1, "device": "cpu", "machine": {}, "layers": []}
    return plan_of(json.dumps(own | fields))


def planned(**fields):
    own = {"name": "a", "factorization": "Dense", "inputs": [1, 2], "kernel": "dense", "trials": []}
    return plan(layers=[own | fields])


def cached(damage):
    def act(folder):
        with mock.patch.dict(os.environ, {cache.CACHE_VARIABLE: str(folder)}):
            make = lambda: {"x": torch.ones(9)}  # noqa: E731
            cache.tensors("kept", {"a": 1}, make)
            (path,) = folder.rglob("*.safetensors")
            damage(path)
            return cache.tensors("kept", {"a": 1}, make)

    return act


def as_folder(path):
    path.unlink()
    path.mkdir()


def of_another(path):
    save_file({"x": torch.ones(9)}, path, metadata={"config": '{"a": 2}'})


def mirrored(make):
    def act(folder):
        weights = folder / "models" / "a" / "b" / "model.safetensors"
        weights.parent.mkdir(parents=True)
        make(weights)
        with mock.patch.dict(os.environ, {hub.HUB_VARIABLE: str(folder)}):
            return hub.load_weights("a/b", None)

    return act


def published(content):
    """Read a downloaded checkpoint of this content."""

    def act(folder):
        (folder / "x.th").write_bytes(content)
        return hub._read_pickled(folder / "x.th", "https://there/x.th")

    return act


def fetched(url, content=b""):
    """Fetch weights from an address; nothing is left in the cache."""

    def act(folder):
        source = folder / "x-deadbeef.th"
        source.write_bytes(content)
        kept = {cache.CACHE_VARIABLE: str(folder / "cache"), hub.HUB_VARIABLE: ""}
        with mock.patch.dict(os.environ, kept):
            try:
                return hub.load_weights("a/b", url.format(source.as_uri()))
            finally:
                assert not [path for path in (folder / "cache").rglob("*") if path.is_file()]

    return act


def empty_mirror(folder):
    with mock.patch.dict(os.environ, {hub.HUB_VARIABLE: str(folder)}):
        return hub.model_path("a/b")


NO_ADDRESS = "is no address to fetch weights from: "

ROWS = [
    Row("address with a port in words", fetched("http://h:abc/x-deadbeef.th"), NO_ADDRESS + "Port"),
    Row("address with a large port", fetched("http://h:99999/x-deadbeef.th"), NO_ADDRESS + "Port"),
    Row("address with a blank", fetched("http://h/a b/x-deadbeef.th"), NO_ADDRESS + "blanks"),
    Row("address of two lines", fetched("http://h/\n/x-deadbeef.th"), NO_ADDRESS + "blanks"),
    Row("address beyond ASCII", fetched("http://h/ü/x-deadbeef.th"), NO_ADDRESS + "blanks"),
    Row("address half of IPv6", fetched("http://[::1/x-deadbeef.th"), NO_ADDRESS + "Invalid IPv6"),
    Row("address without a scheme", fetched("/x-deadbeef.th"), NO_ADDRESS + "it must begin with"),
    Row("address without a host", fetched("http:///x-deadbeef.th"), NO_ADDRESS + "it must begin"),
    Row("address of no known scheme", fetched("foo://h/x-deadbeef.th"), "unknown url type: foo"),
    Row("address of other content", fetched("{}", b"x"), "has the SHA-256 2d711642.*, not deadbee"),
    Row(
        "address with a long host", fetched(f"http://{'a' * 300}/x-deadbeef.th"), "no weights from"
    ),
    Row("published twice", published(pickled(TWICE)), r"it has \['a'\] twice, with and without"),
    Row("mirror without models", empty_mirror, "has no models/a/b; it has no models at all"),
    Row("record nested without end", record(lambda t: "[" * 99_999), "is not a whole record"),
    Row("record of lone surrogates", record(lambda t: t[:-2] + ', "a": "\\ud800"}'), "surrogates"),
    Row("record of broken text", record(lambda t: t[:-2] + ', "\udcff": 1}'), "utf-8"),
    Row("record that goes on", record(lambda t: t + t), "Extra data"),
    Row("record that is a folder", record_that_is_a_folder, "not a whole record: .*directory"),
    Row("plan of no JSON", plan_of("{"), "no plan of optimize_for .*Expecting"),
    Row("plan nested without end", plan_of("[" * 99_999), "no plan"),
    Row("plan that is a list", plan_of("[]"), "must be a mapping of fields"),
    Row("plan that is a number", plan_of(3), "must be a mapping of fields"),
    Row("plan of unknown accuracy", plan(accuracy="fast"), "plan.accuracy is 'fast'"),
    Row("plan of threads in words", plan(threads="1"), "plan.threads is '1': it must be an int"),
    Row("plan of machines in a list", plan(machine=[]), "plan.machine must be a mapping"),
    Row("plan with more", plan(more=1), r"plan has \['more'\] besides"),
    Row("plan that skips without reason", plan(skipped=[["a"]]), r"skipped\[0\] .* a list of 2"),
    Row("plan of no kernel", planned(kernel=None), r"layers\[0\].kernel is None"),
    Row("plan of parts in a list", planned(parts=["a"]), r"layers\[0\].parts must be a mapping"),
    Row("plan of inputs below zero", planned(inputs=[-1]), "'a' are not all above 0"),
    Row("plan of times below zero", planned(trials=[{"kernel": "x", "seconds": -1}]), "above 0"),
    Row("plan of a trial in words", planned(trials=["fast"]), r"trials\[0\] must be a mapping"),
    Row("plan of NaN", planned(error=NAN), "nan is no number"),
    Row("cache that was cut", cached(lambda p: p.write_bytes(p.read_bytes()[:-1])), "delete it"),
    Row("cache that is empty", cached(lambda p: p.write_bytes(b"")), "is damaged .*delete it"),
    Row("cache that is a folder", cached(as_folder), "is damaged .*delete it"),
    Row("cache of something else", cached(of_another), "was made for something else; delete it"),
    Row(
        "mirror with a cut file", mirrored(lambda p: p.write_bytes(b"\1\0")), "no whole safetensors"
    ),
    Row(
        "mirror with a pickle",
        mirrored(lambda p: p.write_bytes(pickled(WEIGHTS))),
        "no whole safet",
    ),
    Row("mirror with a folder", mirrored(lambda p: p.mkdir()), "has no file"),
    Row("published empty", published(b""), "holds more than tensors, or is damaged"),
    Row("published cut", published(pickled(WEIGHTS)[:-30]), "or is damaged"),
    Row("published code", published(pickled({"a": shutil.rmtree})), "could run any code"),
    Row("published tensor", published(pickled(torch.ones(2))), "no mapping from names to tens"),
    Row("published numbers", published(pickled({"a": 1})), "no mapping from names to tensors"),
    Row("published list", published(pickled([torch.ones(1)])), "no mapping from names"),
    Row("published by number", published(pickled({1: torch.ones(1)})), "no mapping from names"),
]
