"""Uploads of exported folders, to a server of this process."""

import huggingface_hub.constants
import pytest
from architectures import ARCHITECTURES
from hub_server import hub

import lowrank
from lowrank import Quantization
from lowrank.export.formats.hf.push import push_to_hub


@pytest.fixture
def server(monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    # Its own protocol of storage is not spoken here.
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setenv("HF_TOKEN", "hf_ours")
    with hub("hf_ours") as server:
        yield server


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    model = lowrank.compress(ARCHITECTURES["Llama"].make(), Quantization(bits=8)).model
    path = tmp_path_factory.mktemp("out")
    lowrank.export_model(model, "hf", path, multiply_out=True, tokenizer=None, shard_bytes=3000)
    return path


# By the library's own use of another one.
@pytest.mark.filterwarnings("ignore:Use 'content:DeprecationWarning")
def test_all_files_of_a_folder_arrive(server, folder):
    address = push_to_hub(folder, "org/name", endpoint=server.address)
    assert address == f"{server.address}/org/name/commit/1"
    own = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert server.files == own and len(server.large) > 1
    (made,) = server.made
    assert (made["organization"], made["name"]) == ("org", "name")
    assert made.get("private") or made.get("visibility") == "private"


def test_a_token_that_the_hub_does_not_take_is_an_error(server, folder, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_other")
    with pytest.raises(OSError, match=r"does not take .* as org/name: "):
        push_to_hub(folder, "org/name", endpoint=server.address)
    assert not server.files and not server.made


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"name": "name"}, "name='name' must be the name of a model"),
        ({"name": "org/a b"}, "is no name of a model"),
        ({"name": None}, "name=None must be"),
        ({"folder": "nowhere"}, "no folder with files"),
        ({"folder": ""}, "is empty"),
        ({"private": 1}, "private=1 must be True or False"),
    ],
)
def test_other_arguments_are_refused_before_anything_is_sent(server, folder, change, text):
    given = {"folder": folder, "name": "org/name", "endpoint": server.address} | change
    with pytest.raises(ValueError, match=text):
        push_to_hub(**given)
    assert not server.made


def test_a_token_is_needed(server, folder, monkeypatch):
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(ValueError, match="HF_TOKEN holds no token"):
        push_to_hub(folder, "org/name", endpoint=server.address)
