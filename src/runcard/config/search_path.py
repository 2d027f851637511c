"""Hydra's plugins that look for config files where project.py says."""

from __future__ import annotations

import builtins
from pathlib import Path

from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.object_type import ObjectType
from hydra.core.plugins import Plugins
from hydra.plugins.config_source import ConfigResult, ConfigSource
from hydra.plugins.search_path_plugin import SearchPathPlugin
from omegaconf import OmegaConf

from runcard.config.project import config_folders
from runcard.config.saved import FOLDER, read_config
from runcard.errors import UserError


class ProjectSearchPath(SearchPathPlugin):
    """Puts the conf/ and experiments/ of the working directory before Runcard's own."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """Add what is there, except to a saved config of a run folder (make rerun), which is complete."""
        for source in search_path.get_path():
            if Path(source.path).name == FOLDER:
                run = Path(source.path.removeprefix("file://")).parent
                try:
                    read_config(run)  # Hydra must do no more with it than to hold values
                except (OSError, ValueError) as error:
                    raise UserError(f"{run}: its saved config cannot be used: {error}.") from None
                return
        experiments = Path.cwd() / "experiments"
        if experiments.is_dir():
            search_path.prepend("project", f"experiments://{experiments}")
        for conf in config_folders()[:-1]:
            search_path.prepend("project", f"file://{conf}")


class ExperimentsSource(ConfigSource):
    """A folder of experiments as the config group experiment."""

    @staticmethod
    def scheme() -> str:
        """Name what stands before :// in a search path."""
        return "experiments"

    def available(self) -> bool:
        """Whether the folder is there."""
        return Path(self.path).is_dir()

    def load_config(self, config_path: str) -> ConfigResult:
        """Read an experiment."""
        file = self._file(self._normalize_file_name(config_path))
        header = self._get_header_dict(file.read_text(encoding="utf-8"))
        return ConfigResult(self.provider, self.full_path(), OmegaConf.load(file), header)  # errors name the file

    def is_group(self, config_path: str) -> bool:
        """Whether this is the group or a folder in it."""
        return config_path == "" or self._file(config_path).is_dir()

    def is_config(self, config_path: str) -> bool:
        """Whether this is an experiment."""
        return self._file(self._normalize_file_name(config_path)).is_file()

    def list(self, config_path: str, results_filter: ObjectType | None) -> builtins.list[str]:
        """List the group, or what lies in it."""
        if config_path == "":
            return [] if results_filter is ObjectType.CONFIG else ["experiment"]
        folder = self._file(config_path)
        groups = [path.name for path in folder.iterdir() if path.is_dir()]
        configs = [path.stem for path in folder.glob("*.yaml")]
        found = {ObjectType.GROUP: groups, ObjectType.CONFIG: configs, None: [*groups, *configs]}
        return sorted(set(found[results_filter]))

    def _file(self, config_path: str) -> Path:
        """Return the path of a config in the folder; one that does not exist for any other group's."""
        group, _, below = config_path.partition("/")
        return Path(self.path) / below if group == "experiment" else Path(self.path) / "no such group" / config_path


def use_project() -> None:
    """Let Hydra, in this process, find the configs of the working directory. Raise UserError for a foreign conf/."""
    config_folders()
    for plugin in (ProjectSearchPath, ExperimentsSource):
        Plugins.instance().register(plugin)
