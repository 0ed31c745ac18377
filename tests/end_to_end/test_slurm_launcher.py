"""Points as jobs of submitit, by the executor that it has for one machine."""

import programs
import pytest
from sweeps import ROOT, command, environment, records

pytest.importorskip("submitit")
pytestmark = pytest.mark.environment

# Its process is killed at the first try of one point.
KILLED = """
import os, signal
from pathlib import Path
from lowrank.decomposers import TruncatedSVD

class Killed(TruncatedSVD):
    def _decompose(self, weight, norm):
        mark = Path(__file__).with_name("killed")
        if self.rank == 3 and not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super()._decompose(weight, norm)
"""


def test_a_job_that_is_killed_is_done_again_and_the_others_are_kept(cache, tmp_path, monkeypatch):
    (tmp_path / "killed_once.py").write_text(KILLED)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    folder = tmp_path / "records"
    arguments = (
        "hydra/launcher=submitit_local",
        f"hydra.launcher.submitit_folder={tmp_path / 'jobs'}",
        "method._target_=killed_once.Killed",
        "method.rank=2,3",
        f"results={folder}",
    )
    words = command(*arguments)[1:]
    finished = programs.run(*words, cwd=ROOT, env=environment(cache), timeout=500)
    assert finished.returncode == 0, finished.stderr
    said = "2 points: 0 had their record, 2 measured here, 0 by others, 0 failed"
    assert said in finished.stdout
    assert "the launcher failed: UncompletedJobError" in finished.stderr
    assert finished.stderr.count("was killed; the point is measured again") == 1
    assert len(records(folder)) == 2
    assert {path.suffix for path in folder.iterdir()} == {".json", ".safetensors"}
