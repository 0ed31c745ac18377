"""Models that a sweep keeps beside its records."""

import json

import pytest
from sweeps import run


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


def test_a_point_keeps_its_model_if_asked_and_is_whole_only_with_it(cache, tmp_path):
    point = ("method.rank=4", "task.weights=null", f"results={tmp_path}")
    assert "1 measured here" in run(cache, *point).stdout
    (path,) = tmp_path.iterdir()
    assert "model_file" not in json.loads(path.read_text())
    assert "1 measured here" in run(cache, *point, "save=all").stdout
    record = json.loads(path.read_text())
    assert {one.name for one in tmp_path.iterdir()} == {path.name, record["model_file"]}
    for asked in ("save=all", "save=none"):
        assert "1 had their record" in run(cache, *point, asked).stdout
    (tmp_path / record["model_file"]).unlink()
    assert "1 measured here" in run(cache, *point, "save=all").stdout
