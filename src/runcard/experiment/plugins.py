"""Hydra's plugins: those of our own, and whether those that the command line names are installed."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from importlib import metadata

from hydra.core.plugins import Plugins

from runcard.errors import UserError
from runcard.experiment.ray_launcher import RayLauncher
from runcard.experiment.search import SearchSweeper
from runcard.experiment.sweep import RunSweeper

# What Hydra itself builds: callbacks, sweepers, launchers, and Optuna's samplers.
OWN_PLUGINS = ("runcard.experiment.sweep.*", "runcard.experiment.search.*", "runcard.experiment.ray_launcher.*")
TRUSTED_BY_HYDRA = (*OWN_PLUGINS, "hydra_plugins.*", "optuna.*")
NEEDS = {  # a choice of conf/hydra -> the distribution that it needs, and our extra with it
    "hydra/launcher=joblib": ("hydra-joblib-launcher", "sweep"),
    "hydra/launcher=slurm": ("hydra-submitit-launcher", "sweep"),
    "hydra/launcher=slurm_local": ("hydra-submitit-launcher", "sweep"),
    "hydra/launcher=ray": ("ray", "ray"),
    "hydra/sweeper=optuna": ("optuna", "sweep"),
}
SLURM = ("hydra/launcher=slurm", "hydra/launcher=submitit_slurm")
SLURM_COMMANDS = ("srun", "sbatch")


def use_plugins(arguments: Sequence[str]) -> None:
    """Let Hydra, in this process, find our plugins. Raise UserError where arguments name what this machine lacks."""
    for plugin in (RunSweeper, SearchSweeper, RayLauncher):
        Plugins.instance().register(plugin)
    for choice, (needed, extra) in NEEDS.items():
        if choice in arguments and not any(metadata.distributions(name=needed)):
            raise UserError(f"{choice}: is not installed: pip install 'runcard[{extra}]'")
    asked = [choice for choice in SLURM if choice in arguments]
    if asked and "--cfg" not in arguments and not all(map(shutil.which, SLURM_COMMANDS)):
        here = f"{' or '.join(SLURM_COMMANDS)} is missing, so this is no machine of a SLURM cluster"
        raise UserError(f"{asked[0]}: {here}. Start it on the cluster, or try it here: hydra/launcher=slurm_local")
