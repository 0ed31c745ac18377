"""Points as jobs of submitit: what SLURM is asked for, and jobs here, one of them killed."""

import os

import programs
import pytest
from sweeps import ROOT, command, environment, records

from experiments.submitit_cluster import Requeued, executor_for

pytest.importorskip("submitit")

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


def test_slurm_is_asked_for_what_the_settings_say(tmp_path, monkeypatch):
    config = pytest.importorskip("hydra_plugins.hydra_submitit_launcher.config")
    for name in ("srun", "sbatch"):
        (tmp_path / name).write_text("#!/bin/sh\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    wanted = config.SlurmQueueConf(
        submitit_folder=str(tmp_path), name="mine", partition="cpu", cpus_per_task=4, timeout_min=7
    )
    wanted.additional_parameters = {"mail-type": "END"}
    settings = {name: value for name, value in vars(wanted).items() if name != "_target_"}
    executor = executor_for("slurm", settings)
    asked = executor._executor._make_submission_file_text("run", "uid")
    lines = ("partition=cpu", "cpus-per-task=4", "time=7", "job-name=mine", "mail-type=END")
    assert not {f"#SBATCH --{line}" for line in lines} - {*asked.splitlines()}


def test_a_job_that_is_begun_again_has_its_function_and_its_point():
    again = Requeued(len).checkpoint((3, ["rank=2"]))
    assert again.function == Requeued(len) and again.args == ((3, ["rank=2"]),)


@pytest.mark.environment
def test_a_job_that_is_killed_is_done_again_and_the_others_are_kept(cache, tmp_path, monkeypatch):
    (tmp_path / "killed_once.py").write_text(KILLED)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{ROOT}")
    folder = tmp_path / "records"
    arguments = (
        "hydra/launcher=submitit_local",
        f"hydra.launcher.submitit_folder={tmp_path / 'jobs'}",
        "method._target_=killed_once.Killed",
        "method.rank=3,2",
        f"results={folder}",
    )
    words = command(*arguments)[1:]
    finished = programs.run(*words, cwd=ROOT, env=environment(cache), timeout=1000)
    assert finished.returncode == 0, finished.stderr
    said = "2 points: 0 had their record, 2 measured here, 0 by others, 0 failed"
    assert said in finished.stdout
    assert "has not produced any output (state: " in finished.stderr
    assert finished.stderr.count("was killed; the point is measured again") == 1
    assert len(records(folder)) == 2
    assert {path.suffix for path in folder.iterdir()} == {".json", ".safetensors"}
