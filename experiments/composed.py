"""Programs that Hydra composes the options of, and that end an error with one line."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

from experiments.yaml_folders import CONF

if TYPE_CHECKING:
    from omegaconf import DictConfig

# Hydra's environment variable for errors with their traceback.
FULL_ERROR = "HYDRA_FULL_ERROR"


def composed(program: Callable[[DictConfig], None], name: str) -> None:
    """Run a program on its options, those of ``conf/<name>/<name>.yaml`` and the command line.

    Raises:
        SystemExit: with one line, what is wrong with the options, or the ValueError or OSError of
            the program after its name, or that it was interrupted.
    """
    import hydra
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    def run(config: DictConfig) -> None:
        try:
            program(config)
        except (ValueError, OSError) as error:
            sys.exit(f"{name}: {on_one_line(error)}")

    start = hydra.main(version_base=None, config_path=str(CONF / name), config_name=name)
    asked = os.environ.get(FULL_ERROR)
    # Else Hydra prints its errors itself, in several lines.
    os.environ[FULL_ERROR] = "1"
    try:
        start(run)()
    except KeyboardInterrupt:
        print(f"{name}: interrupted; give the same command again", file=sys.stderr)
        sys.exit(130)
    except (HydraException, OmegaConfBaseException) as error:
        if asked == "1":
            raise
        sys.exit(said(error, name))


def said(error: Exception, name: str) -> str:
    """An error of Hydra in one line; of an option that a program does not have, with those that it
    has."""
    text = on_one_line(error)
    refused = re.match(r"Could not override ('[^']*')", text)
    if refused is None:
        return text
    from omegaconf import OmegaConf

    known = OmegaConf.load(CONF / name / f"{name}.yaml")
    options = [str(one) for one in known if one not in ("defaults", "hydra")]
    return f"{name}: there is no option {refused[1]}: there are {', '.join(options)}"


def on_one_line(error: BaseException) -> str:
    """The text of an error on one line, without control characters from names in records."""
    text = " ".join(str(error).split())
    return "".join(sign if sign.isprintable() else ascii(sign)[1:-1] for sign in text)
