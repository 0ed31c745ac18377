"""Programs that measure the cases of a published table which are no points of a sweep."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import xxhash

from lowrank.files.atomic import replacing

if TYPE_CHECKING:
    import pandas as pd

SEED = "seed"
# The column with the number of cases that repeat each other, measured or not.
ASKED = "asked"


class Program(ABC):
    """The cases of a table, each measured once and kept in a file of its own.

    A subclass is a frozen dataclass of settings. A case holds all that its measures depend on but
    the code: a change of the settings leaves the files of cases that it does not touch.
    """

    @abstractmethod
    def cases(self) -> Iterator[dict[str, Any]]:
        """The cases, plain values by name; those that differ in `seed` alone repeat each other."""

    @abstractmethod
    def measure(self, case: Mapping[str, Any]) -> dict[str, float]:
        """The measures of a case."""

    def run(self, folder: Path) -> None:
        """Measure the cases that `folder` does not hold."""
        cases = list(self.cases())
        for number, case in enumerate(cases, 1):
            path = self._path(folder, case)
            if not path.is_file():
                print(f"  {number} of {len(cases)}: {_words(case)}", flush=True)
                text = json.dumps({"case": case, "measures": self.measure(case)}, indent=1)
                folder.mkdir(parents=True, exist_ok=True)
                with replacing(path) as file:
                    file.write_text(text, encoding="utf-8")

    def missing(self, folder: Path) -> int:
        """How many cases `folder` does not hold."""
        return sum(not self._path(folder, case).is_file() for case in self.cases())

    def load(self, folder: Path) -> pd.DataFrame:
        """The cases that `folder` holds with their measures, one row each; may be empty.

        Column `point` is alike for cases that repeat each other, `ASKED` is how many these are.
        """
        import pandas as pd

        rows = []
        asked = Counter(_point(case) for case in self.cases())
        for case in self.cases():
            path = self._path(folder, case)
            if path.is_file():
                measures = json.loads(path.read_text(encoding="utf-8"))["measures"]
                point = _point(case)
                rows.append({**case, **measures, "point": point, ASKED: asked[point]})
        return pd.DataFrame(rows)

    def _path(self, folder: Path, case: Mapping[str, Any]) -> Path:
        text = json.dumps([type(self).__name__, case], sort_keys=True)
        return folder / f"{xxhash.xxh3_64_hexdigest(text.encode())}.json"


def _point(case: Mapping[str, Any]) -> str:
    return _words({name: value for name, value in case.items() if name != SEED})


def _words(case: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={value}" for name, value in case.items())
