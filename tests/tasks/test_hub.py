import hashlib
import http.server
import io
import os
import threading
from functools import partial

import pytest
import torch

from lowrank.tasks import hub
from lowrank.tasks.networks.cifar_resnet import CifarResNet


@pytest.fixture
def server(tmp_path, monkeypatch):
    """A folder whose files are served at a local address."""
    monkeypatch.delenv("LOWRANK_HUB", raising=False)
    folder = tmp_path / "served"
    folder.mkdir()

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    handler = partial(Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as httpd:
        threading.Thread(target=httpd.serve_forever, args=(0.01,), daemon=True).start()
        yield folder, f"http://127.0.0.1:{httpd.server_port}"
        httpd.shutdown()


def publish(folder, content, name="net", digest=None):
    """Write a checkpoint as PyTorch did in 2018, named with its hash."""
    buffer = io.BytesIO()
    torch.save(content, buffer, _use_new_zipfile_serialization=False)
    digest = digest or hashlib.sha256(buffer.getvalue()).hexdigest()[:8]
    (folder / f"{name}-{digest}.th").write_bytes(buffer.getvalue())
    return f"{name}-{digest}.th"


def test_a_checkpoint_of_data_parallel_loads_from_its_address(server):
    folder, address = server
    state = CifarResNet(20).state_dict()
    content = {
        "state_dict": {f"module.{name}": tensor for name, tensor in state.items()},
        "best_prec1": 91.78,
    }
    url = f"{address}/{publish(folder, content)}"
    loaded = hub.load_weights("someone/net", url)
    assert loaded.keys() == state.keys()
    assert all(torch.equal(loaded[name], state[name]) for name in state)
    # The second time it comes from the cache.
    for file in folder.iterdir():
        file.unlink()
    assert hub.load_weights("someone/net", url).keys() == state.keys()


def test_a_plain_state_dict_loads(server):
    folder, address = server
    name = publish(folder, {"weight": torch.ones(2)})
    assert torch.equal(hub.load_weights("a/b", f"{address}/{name}")["weight"], torch.ones(2))


def test_a_download_with_another_hash_is_refused_and_not_kept(server, fresh_cache):
    folder, address = server
    name = publish(folder, {"weight": torch.ones(2)}, digest="0123abcd")
    for _ in range(2):
        with pytest.raises(ValueError, match="the file there has the SHA-256 .*, not 0123abcd"):
            hub.load_weights("a/b", f"{address}/{name}")
    assert not list(fresh_cache.rglob("*.th"))


def test_a_download_that_was_damaged_since_is_refused(server, fresh_cache):
    folder, address = server
    url = f"{address}/{publish(folder, {'weight': torch.ones(2)})}"
    hub.load_weights("a/b", url)
    (file,) = fresh_cache.rglob("*.th")
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(ValueError, match="is no longer what was downloaded from .*: delete it"):
        hub.load_weights("a/b", url)


def test_an_address_without_a_hash_is_refused(server):
    with pytest.raises(ValueError, match="SHA-256"):
        hub.load_weights("a/b", f"{server[1]}/net.th")


def test_a_file_that_is_not_there(server):
    with pytest.raises(ValueError, match="no weights from .*net-00000000.th.*404"):
        hub.load_weights("a/b", f"{server[1]}/net-00000000.th")


class Command:
    def __reduce__(self):
        return os.mkdir, ("/tmp/this-must-never-be-made",)


def test_a_checkpoint_cannot_run_code(server):
    folder, address = server
    name = publish(folder, {"state_dict": Command()})
    with pytest.raises(ValueError, match="no weights from .* more than tensors"):
        hub.load_weights("a/b", f"{address}/{name}")
    assert not os.path.exists("/tmp/this-must-never-be-made")


def test_a_mirror_that_is_no_folder(monkeypatch):
    monkeypatch.setenv("LOWRANK_HUB", "/nowhere")
    with pytest.raises(ValueError, match="LOWRANK_HUB=/nowhere is no folder"):
        hub.load_weights("a/b", None)


def test_a_mirror_says_what_it_has(tmp_path, monkeypatch):
    monkeypatch.setenv("LOWRANK_HUB", str(tmp_path))
    (tmp_path / "models" / "known" / "net").mkdir(parents=True)
    with pytest.raises(ValueError, match="no models/a/b; it has known/net"):
        hub.load_weights("a/b", "http://127.0.0.1:9/never-asked-00000000.th")
    with pytest.raises(ValueError, match="has no file .*model.safetensors"):
        hub.load_weights("known/net", None)
    with pytest.raises(ValueError, match="no datasets/a/b"):
        hub.load_split("a/b", "train", None, None)
