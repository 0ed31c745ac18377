"""Uploads of exported folders, to a server of this process."""

import huggingface_hub.constants
import pytest
from architectures import ARCHITECTURES
from hub_server import hub

import lowrank
from experiments import command
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


@pytest.mark.parametrize("token", ["hf\nx", "hf x", "hfö", " "])
def test_what_is_no_token_is_not_sent(token, server, folder, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", token)
    with pytest.raises(ValueError, match="HF_TOKEN holds no token"):
        push_to_hub(folder, "org/name", endpoint=server.address)


@pytest.mark.parametrize("endpoint", ["http://127.0.0.1:9", "no address", "ftp://127.0.0.1:9"])
def test_a_hub_that_is_not_there_is_one_error(endpoint, server, folder):
    with pytest.raises(OSError, match=f"{endpoint} cannot be reached: "):
        push_to_hub(folder, "org/name", endpoint=endpoint)


@pytest.mark.filterwarnings("ignore:Use 'content:DeprecationWarning")
def test_the_command_uploads_what_it_wrote(server, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", server.address)
    lowrank.save(ARCHITECTURES["Llama"].make(), tmp_path / "m")
    words = ["lowrank", "export", str(tmp_path / "m"), "--format", "dense"]
    words += ["--out", str(tmp_path / "out"), "--push"]
    monkeypatch.setattr("sys.argv", [*words, "name"])
    with pytest.raises(SystemExit, match="export: name='name' must be the name of a model"):
        command.main()
    assert not (tmp_path / "out").exists()
    monkeypatch.setattr("sys.argv", [*words, "org/name"])
    command.main()
    assert capsys.readouterr().out.endswith(f"{server.address}/org/name/commit/1\n")
    assert server.files.keys() == {"model.safetensors"}


def test_a_token_is_needed(server, folder, monkeypatch):
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(ValueError, match="HF_TOKEN holds no token"):
        push_to_hub(folder, "org/name", endpoint=server.address)
