"""The commands that measure the points of records again."""

import copy
import json
import shlex
from contextlib import nullcontext

import made_records as records
import pandas as pd
import pytest
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from experiments.again import command_of_each, commands
from experiments.yaml_folders import CONF
from lowrank.records import store

# Some of them, for each has to be composed.
METHODS = sorted(path.stem for path in (CONF / "method").glob("*.yaml"))[::6]
TASKS = sorted(path.stem for path in (CONF / "task").glob("*.yaml"))
OTHERS = [
    "method=svd method.rank=null method.compression_ratio=2.05 seed=3 threads=1",
    "method=prune_quantize method.steps.0.sparsity=0.3 measure=quick",
    "method=mix method.budget.ratio=null method.budget.bits_per_weight=3.3 task.seed=4",
    "method=mix method.candidates.sparse=null",
    "method=gptq norm=full norm.mode=sequential task.calibration_seed=null",
    "method=magnitude recovery=finetune recovery.epochs=2 where=blocks",
    """method=magnitude where.include='"*.fc?"' 'where.exclude=["a b",c-1,"d,e"]'""",
    """method=awq "task.name='two words'" measure.latency_batch_sizes=[1,7]""",
    "task=causal_lm task.pretrained=me/model device=cuda values=float16",
    "method=keep",
]


@pytest.fixture(scope="module")
def again():
    with commands() as again:
        yield again


def composed(again, line):
    return again.composer.settings([text for text in shlex.split(line) if "=" in text])


def overrides(again, config):
    """The overrides of the command of a config, as a shell hands them over."""
    python, flag, module, *rest = shlex.split(again.command(config))
    assert (python, flag, module) == ("python", "-m", "experiments.sweep")
    return rest


def check(again, config):
    found = overrides(again, config)
    assert store.key(again.composer.settings(found)) == store.key(config)
    return found


@pytest.mark.parametrize("line", OTHERS)
def test_the_command_composes_to_the_same_key(again, line):
    check(again, composed(again, line))


@pytest.mark.parametrize("method", METHODS)
def test_each_method_is_found_with_fields_of_its_own(again, method):
    config = composed(again, f"method={method} measure=quick")
    assert check(again, config)[:2] == ["task=digits", f"method={method}"]
    numbers = [name for name, value in config["method"].items() if type(value) is int]
    for name in numbers:
        config["method"][name] += 1
    found = check(again, config)
    assert {f"method.{name}={config['method'][name]}" for name in numbers} <= {*found}


@pytest.mark.parametrize("task", TASKS)
def test_each_task_is_found(again, task):
    pretrained = " task.pretrained=me/model" if task == "causal_lm" else ""
    found = check(again, composed(again, f"task={task} method=svd method.rank=4{pretrained}"))
    assert found[0] == f"task={task}" and "method.rank=4" in found


def test_what_a_choice_says_in_any_case_is_not_repeated(again):
    line = "python -m experiments.sweep task=digits method=gptq measure=quick method.bits=3"
    assert again.command(composed(again, line)) == f"{line} sweep=scratch"


def test_a_method_whose_name_is_no_choice_is_found_by_its_fields(again):
    config = composed(again, "method=gptq method_name=ours method.bits=3")
    assert {"method=gptq", "method_name=ours", "method.bits=3"} <= {*check(again, config)}


def test_a_field_that_is_left_out_or_new_is_said(again):
    config = composed(again, "method=svd")
    del config["method"]["view"]
    config["method"]["oversampling"] = 5
    assert {"~method.view", "+method.oversampling=5"} <= {*check(again, config)}


@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(alphabet=st.sampled_from("a'\"\\$`{}[](),:;=|&<>*~!# 0é"), max_size=12))
def test_texts_are_quoted_for_hydra_and_for_the_shell(again, text):
    config = composed(again, "method=svd")
    config["task"]["name"] = text
    config["where"]["exclude"] = [text, "x"]
    try:
        check(again, config)
    except ValueError:
        # Hydra has no quotes for an empty text in a list, and would resolve what begins so.
        assert "${" in text or text.strip() != text or not text


CODE = {"_target_": "os.system", "command": "touch /tmp/mark"}


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        ("task.source", CODE, "which no YAML here does"),
        ("task.source._target_", "os.system", "which no YAML here does"),
        ("method.steps", [CODE], "which no YAML here does"),
        ("recovery._partial_", True, "which no YAML here does"),
        ("task.name", "${oc.env:HOME}", "which a command would change"),
        ("task.name", "a\nb", "which a command would change"),
        ("task.name", "\x1b[31m", "which a command would change"),
        ("task.two words", 1, "no command line can name"),
        ("task.name", "a" * 9000, "differs from every YAML"),
        ("sweep", "a\rb", "which a command would change"),
    ],
)
def test_records_of_others_get_no_command_that_says_more_than_settings(
    again, place, value, message
):
    config = composed(again, "method=svd")
    *parts, name = place.split(".")
    inner = config
    for part in parts:
        inner = inner[part]
    inner[name] = value
    with pytest.raises(ValueError, match=message):
        again.command(config)


def test_a_point_that_was_measured_in_python_has_none(again):
    config = composed(again, "method=svd")
    with pytest.raises(ValueError, match="its config has no where"):
        again.command({name: value for name, value in config.items() if name != "where"})


def test_finding_a_command_changes_no_config(again):
    config = composed(again, OTHERS[0])
    before = copy.deepcopy(config)
    again.command(config)
    assert config == before


def test_hydra_is_left_as_it_was():
    state = HydraConfig.instance().cfg, GlobalHydra.instance().hydra
    with commands() as again:
        assert GlobalHydra.instance().hydra is not state[1]
        composed(again, "method=svd")
    assert (HydraConfig.instance().cfg, GlobalHydra.instance().hydra) == state


def test_the_yaml_of_the_user_is_known(tmp_path, monkeypatch):
    (tmp_path / "conf" / "method").mkdir(parents=True)
    own = "# @package _global_\nmethod: {_target_: my_methods.Mine, rank: 3}\n"
    (tmp_path / "conf" / "method" / "mine.yaml").write_text(own)
    monkeypatch.chdir(tmp_path)
    with commands() as again:
        config = composed(again, "method=mine method.rank=5")
        assert {"method=mine", "method.rank=5"} <= {*check(again, config)}


def test_each_record_has_its_command_or_the_reason(again, tmp_path, monkeypatch):
    monkeypatch.setattr("experiments.again.commands", lambda: nullcontext(again))
    rows = []
    for number, config in enumerate([composed(again, "method=svd"), records.record()["config"]]):
        path = tmp_path / f"{number}.json"
        path.write_text(json.dumps({"config": config}))
        rows.append({"key": f"{number}", "path": str(path)})
    found = command_of_each(pd.DataFrame(rows))
    assert found["0"].text == "python -m experiments.sweep task=digits method=svd sweep=scratch"
    assert found["1"].text is None and "its config has no" in found["1"].reason
