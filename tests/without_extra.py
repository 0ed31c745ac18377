"""What is said where an extra is not installed; to be run as a program with the extra's libraries.

Imports every module of the library, then does what needs each of the libraries. Prints as JSON how
each ended: an error's class and text, or nothing.
"""

import importlib
import json
import runpy
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
# What of the library and of the programs needs a library, as (module, expression in it).
USES = {
    "PIL": ("lowrank.tasks", "HubImages('me/images')"),
    "compressed_tensors": (
        "runpy",
        "run_module('experiments.benchmarks.exported', run_name='__main__')",
    ),
    "datasets": ("lowrank.tasks", "HubText('me/text', 'test')"),
    "filelock": ("lowrank.tasks", "Trained(Training(1, 0.1, 8))"),
    "gguf": ("lowrank.export.model_files", "plan_export(nn.Linear(1, 1), 'gguf')"),
    "hqq": (
        "experiments.benchmarks.peer_methods.half_quadratic",
        "HalfQuadratic(bits=4, group_size=64).compress(None)",
    ),
    "huggingface_hub": ("lowrank.tasks", "Published('me/weights')"),
    "hydra": ("runpy", "run_module('experiments.sweep', run_name='__main__')"),
    "jiwer": ("lowrank.tasks", "RecognitionScores()"),
    "joblib": ("runpy", "run_module('experiments.sweep', run_name='__main__')"),
    "lm_eval": ("lowrank.point", "MeasureSettings(harness_tasks=['arc_easy'])"),
    "matplotlib": ("importlib", "import_module('lowrank.reporting.plots')"),
    "onnx": ("lowrank.export.model_files", "plan_export(nn.Linear(2, 2), 'onnx')"),
    "onnx_ir": ("lowrank.export.model_files", "plan_export(nn.Linear(2, 2), 'onnx')"),
    "onnxruntime": ("runpy", "run_module('experiments.benchmarks.exported', run_name='__main__')"),
    "onnxscript": ("lowrank.export.model_files", "plan_export(nn.Linear(2, 2), 'onnx')"),
    "optuna": ("experiments.search", "space_of([], bool)"),
    "pandas": ("lowrank.records.store", "load_both('.')"),
    "pydantic": ("runpy", "run_module('experiments.reproduce', run_name='__main__')"),
    "pycocotools": ("lowrank.tasks.average_precision", "matches([], None, 1)"),
    "ray": ("experiments.sweep", "need_launcher(['hydra/launcher=ray'])"),
    "sacrebleu": ("lowrank.tasks", "TranslationScores()"),
    "sklearn": ("lowrank.tasks", "Digits()"),
    "soundfile": ("lowrank.tasks", "HubClips('me/words', 8000, 8000)"),
    "submitit": ("experiments.sweep", "need_launcher(['hydra/launcher=submitit_slurm'])"),
    "tabulate": ("importlib", "import_module('lowrank.reporting.captions')"),
    "tensorboardX": ("experiments.trackers", "TensorBoardTracker('folder')"),
    "threadpoolctl": ("lowrank.point", "computing(seed=0, threads=1).__enter__()"),
    "torch_pruning": ("lowrank.export.cutting.cut", "cut_model(nn.Linear(2, 2))"),
    "torchao": (
        "experiments.benchmarks.peer_methods.torchao_rounding",
        "TorchaoRounding(bits=8, group_size=None).compress(None)",
    ),
    "torchmetrics": ("importlib", "import_module('lowrank.tasks.text_metrics')"),
    "transformers": ("lowrank.tasks.pretrained", "Pretrained('me/model', 'float32', None)"),
    "wandb": ("experiments.trackers", "WandbTracker('offline', 'project', 'folder')"),
}
REPORTS = {"pandas", "matplotlib", "tabulate"}
EXPORTED = {"compressed_tensors", "hydra", "onnxruntime", "torchmetrics", "transformers"}
# Programs with their arguments, and what they need; none of them gets so far as to do anything.
PROGRAMS = {
    "experiments.sweep": {"hydra", "joblib", "threadpoolctl"} | REPORTS,
    "experiments.report": {"hydra"} | REPORTS,
    "experiments.inspect": {"hydra"} | REPORTS,
    "experiments.reproduce": {"hydra", "pydantic"} | REPORTS,
    "experiments.command sweep": {"hydra", "joblib", "threadpoolctl"} | REPORTS,
    "experiments.command report": {"hydra"} | REPORTS,
    "experiments.command inspect": {"hydra"} | REPORTS,
    "experiments.command reproduce": {"hydra", "pydantic"} | REPORTS,
    "experiments.benchmarks.break_even": REPORTS,
    "experiments.benchmarks.budget_curve": {"hydra"},
    "experiments.benchmarks.decomposition": {"sklearn", "threadpoolctl"},
    "experiments.benchmarks.exported": EXPORTED | REPORTS,
    "experiments.benchmarks.peers": {"hydra", "transformers", "torchmetrics"} | REPORTS,
}


class Hiding:
    """A finder of modules that does not find those of some libraries."""

    def __init__(self, finder, hidden):
        self.finder, self.hidden = finder, hidden

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in self.hidden:
            return None
        return self.finder.find_spec(name, path, target)

    def __getattr__(self, name):  # Finders also say which versions are installed.
        return getattr(self.finder, name)


def ending(act, *arguments):
    """How a call ended."""
    try:
        act(*arguments)
    except (Exception, SystemExit) as error:
        return [type(error).__name__, str(error)]
    return None


def forget(names):
    """Let modules be imported again: of libraries that are hidden, and of what imported them."""
    for module in list(sys.modules):
        if module.partition(".")[0] in {*names, "experiments"} or module in HOLDERS:
            del sys.modules[module]


# Those that look for libraries when they are imported.
OF_TORCHMETRICS = tuple(
    f"lowrank.tasks.{name}" for name in ("detection_metrics", "summed_scores", "text_metrics")
)
HOLDERS = ("lowrank.reporting", *OF_TORCHMETRICS)


def evaluate(module, expression):
    return eval(expression, vars(importlib.import_module(module)))


def run(program):
    module, *arguments = program.split()
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__")


def main(hidden):
    finders = list(sys.meta_path)
    sys.meta_path[:] = [Hiding(finder, hidden) for finder in finders]
    found = {"modules": {}, "programs": {}, "uses": {}}
    for path in sorted(ROOT.glob("lowrank/**/*.py")):
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        # torchmetrics looks at the list of what is installed for what it imports itself.
        if name not in OF_TORCHMETRICS or "torchmetrics" in hidden:
            found["modules"][name] = ending(importlib.import_module, name)
    for program, needed in PROGRAMS.items():
        if needed & hidden:
            found["programs"][program] = ending(run, program)
    # Each by itself: what needs two is to name both in turn.
    for library in hidden & USES.keys():
        sys.meta_path[:] = [Hiding(finder, {library}) for finder in finders]
        forget({library})
        found["uses"][library] = ending(evaluate, *USES[library])
    print(json.dumps(found))


if __name__ == "__main__":
    main(set(sys.argv[1:]))
