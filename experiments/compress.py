"""A folder of transformers compressed on disk, weight by weight: `lowrank compress --help`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any

from experiments.composed import on_one_line
from experiments.required import require
from experiments.yaml_folders import CONF, check_own

# What the command line sets, each a group of conf; a task gives the calibration data.
GROUPS = ("method", "where", "norm", "task")


def main() -> None:
    """The program of the command line; an error is one line on stderr."""
    require("lowrank compress", "hydra", "transformers")
    given = vars(_parser().parse_args())
    check_own()
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    from experiments.parts import cause

    try:
        compress(**given)
    except KeyboardInterrupt:
        sys.exit("compress: interrupted; the same command goes on from here")
    except (HydraException, OmegaConfBaseException) as error:
        sys.exit(f"compress: {on_one_line(cause(error))}")
    except (ValueError, OSError) as error:
        sys.exit(f"compress: {on_one_line(error)}")


def compress(source: str, target: str, settings: Sequence[str], **options: Any) -> None:
    """Compress a checkpoint, and print what became of it.

    Args:
        settings: as of a sweep, such as ``method=svd`` and ``method.rank=8``.
        options: of `lowrank.compress_checkpoint`.

    Raises:
        ValueError: a setting that cannot be; as `lowrank.compress_checkpoint`.
    """
    parts = made(settings, source)
    import lowrank

    result = lowrank.compress_checkpoint(source, target, **parts, **options)
    print(f"{result.summary()}; {result.nbytes:,} bytes")
    for name, why in result.left:
        print(f"left as it is: {name}: {why}")
    print(result.folder)


def made(settings: Sequence[str], source: str) -> dict[str, Any]:
    """The library's objects that settings name, by the parameters of `compress_checkpoint`.

    Args:
        source: whose tokenizer reads the texts of a task, unless another is named.

    Raises:
        ValueError: no method is chosen, a setting is of something else, or data have no use.
        HydraException: a choice or field does not exist.
    """
    names = [setting.lstrip("+").partition("=")[0] for setting in settings]
    others = [name for name in names if name.partition(".")[0] not in GROUPS]
    if others:
        raise ValueError(f"{others[0]!r} has no effect here: give {', '.join(GROUPS)} alone")
    if "method" not in names:
        raise ValueError("no method is chosen: give one, such as method=rtn")
    from hydra import compose, initialize_config_dir
    from omegaconf import OmegaConf

    # It says where Hydra finds the user's own YAML.
    import experiments.sweep  # noqa: F401
    from experiments.parts import KINDS, check_kind, make
    from lowrank.tasks import Task

    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("config", list(settings))
    described: Any = {n: OmegaConf.to_container(config[n], resolve=True) for n in GROUPS}
    parts = {}
    for name in ("method", "where", "norm"):
        parts[name] = make(described[name])
        check_kind(name, parts[name], KINDS[name])
    if any(name.partition(".")[0] == "task" for name in names):
        if not parts["norm"].needs_data:
            raise ValueError(
                "a task gives calibration data, which this method does not read: leave it out, or "
                "give norm=full too"
            )
        task = described["task"]
        if "pretrained" in task and "task.pretrained" not in names:
            task["pretrained"] = source
        parts["data"] = make(task)
        check_kind("task", parts["data"], Task)
    return parts


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="lowrank compress",
        description="Compress a folder of transformers into another one, weight by weight, so that "
        "the model is never in memory as a whole. The same command goes on where one was killed. "
        "lowrank.load reads what it writes.",
        allow_abbrev=False,
    )
    parser.add_argument("source", help="a folder with config.json and safetensors")
    parser.add_argument("target", help="the folder, which is made")
    parser.add_argument(
        "settings",
        nargs="+",
        metavar="setting",
        help="as of a sweep: method=rtn method.bits=4 where=blocks; with calibration data "
        "method=gptq task=causal_lm",
    )
    parser.add_argument("--values", help="float16 or bfloat16, for factors and kept weights")
    parser.add_argument("--dtype", help="of the weights; by default that of the config")
    parser.add_argument(
        "--workers", type=int, default=1, help="weights at the same time; default: 1"
    )
    parser.add_argument(
        "--strict",
        action="store_true",
        help="end where a weight cannot be compressed as asked",
    )
    return parser


if __name__ == "__main__":
    main()
