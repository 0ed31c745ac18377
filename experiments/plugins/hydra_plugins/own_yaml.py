"""Makes Hydra look for the groups of a sweep in the user's own folder, too."""

from __future__ import annotations

from hydra.core.config_search_path import ConfigSearchPath
from hydra.plugins.search_path_plugin import SearchPathPlugin

from experiments.yaml_folders import own


class OwnYaml(SearchPathPlugin):
    """Adds the folder conf where the user is, after this project's."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        folder = own()
        if folder is not None:
            search_path.append("own", f"file://{folder}")
