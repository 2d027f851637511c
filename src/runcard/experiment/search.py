"""Searches: Optuna proposes the values of the next jobs, and stops those that are not worth their time.

A trial is a run like any other of a sweep. Optuna's journal lies in the sweep's folder: the same command goes on there
until n_trials, and several commands at once share one search. What becomes of a trial its run folder says.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from filelock import FileLock
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override
from hydra.core.utils import JobReturn
from hydra.utils import get_object, instantiate
from omegaconf import DictConfig

from runcard.config.project import use_own_modules
from runcard.console import counted
from runcard.errors import UserError, first_line
from runcard.experiment.sweep import MAX_TRIES, Job, RunSweeper, SweepReporter
from runcard.experiment.trial import JOURNAL, RUN, Direction, open_journal, open_study, writable
from runcard.runs.folders import read_metadata
from runcard.runs.search import RESULT, write_result
from runcard.runs.sweep import LOOK_EVERY_SECONDS, RunState, record_jobs, state_of

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.trial import FrozenTrial, Trial

    from runcard.runs.run import Run

DIGITS = 4  # of a proposed number: as many as a person can read in the name of a folder
NEVER_SEARCHED = ("seed", "dataset", "dataset.split", "dataset.root", "dataset.csv")  # and the keys below the split
ASKED_SECONDS = 30.0  # a trial that another command asked for so recently is about to be held by it


class SearchSweeper(RunSweeper):
    """The sweeper of hydra/sweeper=optuna; conf/hydra/sweeper/optuna.yaml explains its keys."""

    def __init__(
        self,
        n_trials: int,
        n_jobs: int,
        seed: int,
        direction: Direction | None,
        sampler: DictConfig,
        pruner: DictConfig | None,  # noqa: ARG002  find_trial reads it
        params: dict[str, str] | None,
    ) -> None:
        super().__init__(max_batch_size=n_jobs, retry_failed=False, params=params)
        for key, value in {"n_trials": n_trials, "n_jobs": n_jobs}.items():
            if type(value) is not int or value < 1:
                raise UserError(f"hydra.sweeper.{key} must be an integer >= 1, got {value!r}")
        if direction not in (None, *get_args(Direction)):
            raise UserError(f"hydra.sweeper.direction must be minimize, maximize or null, got {direction!r}")
        self.n_trials, self.n_jobs, self.seed = n_trials, n_jobs, seed
        self.direction, self.sampler = direction, sampler
        self.jobs: dict[int, Job] = {}  # by trial
        self.asked: set[int] = set()  # the trials that this command has asked for

    def sweep(self, arguments: list[str]) -> list[JobReturn]:
        """Run trials until the journal has n_trials and each has ended."""
        swept = self._parse(arguments)
        distributions = {key: _distribution(key, override) for key, override in swept.items()}
        (first,) = self.compose([self.fixed + [f"{key}={_example(d)}" for key, d in distributions.items()]])
        self.monitor, self.folder = str(first.config.metric.monitor), first.folder.parent
        self.prepare(self.folder, {})
        direction = self.direction or _direction(first.config)
        name = ", ".join(sorted(str(override.input_line) for override in swept.values()))
        self.study = open_study(self.folder, name, direction=direction)
        tries: Counter[int] = Counter()
        while numbers := self._next(distributions, tries):
            tries.update(numbers)
            self.launch([self.jobs[number] for number in numbers])
        self._report()
        return self.returns

    def _parse(self, arguments: list[str]) -> dict[str, Override]:
        """Return what is searched, by key; note what all trials share."""
        assert self.hydra_context is not None
        parser = OverridesParser.create(config_loader=self.hydra_context.config_loader)
        overrides = parser.parse_overrides([*self._parse_config(), *arguments])
        swept = {each.get_key_element(): each for each in overrides if each.is_sweep_override()}
        self.fixed = [
            f"{each.get_key_element()}={each.get_value_element_as_str()}"
            for each in overrides
            if not each.is_sweep_override()
        ]
        if not swept:
            example = "'optimizer.lr=tag(log, interval(1e-4, 1e-1))'"
            raise UserError(f"hydra/sweeper=optuna: there is nothing to search. Give lists or intervals: {example}")
        for key in swept:
            plain = key.lstrip("+")
            if plain in NEVER_SEARCHED or plain.startswith("dataset.split."):
                raise UserError(f"{key}: a search for the best one would only find the luckiest. Give it one value.")
        return swept

    def _next(self, distributions: Mapping[str, BaseDistribution], tries: Mapping[int, int]) -> list[int]:
        """Return the trials to launch now: those that nobody goes on with, and new ones; none once all have ended."""
        while True:
            self._tell()
            with FileLock(self.folder / f".{JOURNAL}.asking"):  # so that no two commands ask for the last trial
                begun = [trial for trial in self.study.trials if distributions.keys() <= trial.params.keys()]
                left = [t for t in begun if not t.state.is_finished() and tries.get(t.number, 0) < MAX_TRIES]
                free = [trial.number for trial in left if self._is_free(trial)]
                wanted = min(self.n_trials - len(begun), self.n_jobs - len(free))
                found = free[: self.n_jobs] + [self._ask(distributions) for _ in range(wanted)]
            self._tell()  # a proposal may repeat a run that is there
            if to_run := [number for number in found if not state_of(self.jobs[number].folder).is_final]:
                return to_run
            if not left and not found:
                return []
            if not found:
                time.sleep(LOOK_EVERY_SECONDS)

    def _is_free(self, trial: FrozenTrial) -> bool:
        """Whether no command goes on with a trial that has not ended, nor is about to begin it."""
        state = state_of(self._job(trial).folder).state
        if state == "missing" and trial.number not in self.asked and trial.datetime_start:
            return time.time() - trial.datetime_start.timestamp() > ASKED_SECONDS
        return state != "running"

    def _ask(self, distributions: Mapping[str, BaseDistribution]) -> int:
        """Let Optuna propose the next trial, and return its number.

        The sampler is made anew with a seed of its own each time: so an interrupted search proposes what an undisturbed
        one would, where one made with the same seed would begin again with the same points.
        """
        self.study.sampler = instantiate(self.sampler, seed=self.seed * 1_000_003 + len(self.study.trials))
        trial = self.study.ask(dict(distributions))
        self._job(trial)
        self.asked.add(trial.number)
        return trial.number

    def _job(self, trial: FrozenTrial | Trial) -> Job:
        """Return the job of a trial, and let its run know the trial by its folder's name."""
        if trial.number not in self.jobs:
            values = [f"{key}={_text(value)}" for key, value in trial.params.items()]
            (job,) = self.compose([[*self.fixed, *values]])
            self.jobs[trial.number] = job
            record_jobs(self.folder, {job.folder.name: job.overrides})
            if RUN not in trial.user_attrs:
                writable(self.study, trial).set_user_attr(RUN, job.folder.name)
        return self.jobs[trial.number]

    def _tell(self) -> None:
        """Tell Optuna of the trials that have ended, whoever ran them; then write search.json."""
        from optuna.trial import TrialState

        ended = {"failed": TrialState.FAIL, "pruned": TrialState.PRUNED}
        has_ended = False
        for trial in self.study.trials:
            if trial.state.is_finished() or RUN not in trial.user_attrs:
                continue
            run = state_of(self.folder / trial.user_attrs[RUN])
            if run.is_final:
                self.study.tell(trial.number, run.value, state=ended.get(run.state), skip_if_finished=True)
                has_ended = True
        if has_ended:
            self._write_result()

    def _runs(self) -> list[RunState]:
        """Return the runs of the trials, from the best one on."""
        names = dict.fromkeys(trial.user_attrs[RUN] for trial in self.study.trials if RUN in trial.user_attrs)
        sign = -1 if self.study.direction.name == "MAXIMIZE" else 1
        states = [state_of(self.folder / name) for name in names]
        return sorted(states, key=lambda run: (run.value is None, sign * (run.value or 0.0)))

    def _write_result(self) -> None:
        """Write search.json, where a trial has been completed."""
        from runcard.runs.run import Run  # imports numpy, for which a command with a misspelled option need not wait

        runs = [run for run in self._runs() if run.value is not None]
        if not runs:
            return
        best = runs[0].folder.name
        splits: dict[str, Run] = {}  # of the runs, each once: those of the best are enough unless data were searched
        for run in runs:
            read = Run(run.folder, read_metadata(run.folder))
            splits.setdefault(read.metadata["data"]["split_hash"], read)
        result = {
            "trials": num_ended(self.folder),
            "monitor": self.monitor,
            "space": self.study.study_name,
            "best": {"run": best, "value": runs[0].value, "overrides": self._values(best)},
            "seeds": sorted({read.seed for read in splits.values()}),
            "images": sorted({member["sha256"] for read in splits.values() for member in read.split_members["val"]}),
        }
        with FileLock(self.folder / f".{RESULT}.lock"):
            write_result(self.folder, result)

    def _values(self, name: str) -> list[str]:
        """Return what the trial with a run folder of this name tried, as overrides."""
        trial = next(trial for trial in self.study.trials if trial.user_attrs.get(RUN) == name)
        return [f"{key.lstrip('+')}={_text(value)}" for key, value in trial.params.items()]

    def _report(self) -> None:
        """Leave to SweepReporter what to print: the trials from the best one on, and what the best supports."""
        runs = self._runs()
        SweepReporter.folders = [run.folder for run in runs]
        if not runs or runs[0].value is None:
            return
        trials = counted(num_ended(self.folder), "trial")
        chosen = " ".join([*self._values(runs[0].folder.name), f'chosen_by="{self.folder}"'])
        SweepReporter.closing = (
            f"\nbest: {self.monitor} {runs[0].value:.4f}, chosen by a search of {trials} on the validation "
            "images: by itself it supports no claim.\n"
            "To confirm it, let runcard study run it with other seeds and a test split, as an arm with\n"
            f"  {chosen}"
        )


def num_ended(folder: Path) -> int:
    """Return how many trials have ended of all searches in a folder."""
    import optuna

    studies = [open_study(folder, name) for name in optuna.get_all_study_names(open_journal(folder))]
    return sum(trial.state.is_finished() for study in studies for trial in study.trials)


def _direction(config: DictConfig) -> Direction:
    """Return which way the monitored metric is better, as its class says."""
    monitor = str(config.metric.monitor)
    name = monitor.partition("/")[2]
    if name == "loss":
        return "minimize"
    scores = [score for score in config.metric.scores if f"{name}_".startswith(f"{score}_")]  # dice_left is one of dice
    if scores:
        if config.trust:
            use_own_modules()
        target = get_object(config.metric.scores[max(scores, key=len)]._target_)
        if isinstance(is_better := getattr(target, "higher_is_better", None), bool):
            return "maximize" if is_better else "minimize"
    raise UserError(f"hydra.sweeper.direction: say minimize or maximize; {monitor} does not say which is better.")


def _distribution(key: str, override: Override) -> BaseDistribution:
    """Return the values that an override of a sweep allows: a list, a range, or an interval (of integers, of logs)."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if not override.is_interval_sweep():
        return CategoricalDistribution(list(override.sweep_string_iterator()))
    interval = override.value()
    assert isinstance(interval, IntervalSweep)
    bounds: list[Any] = [interval.start, interval.end]
    of_integers = all(type(bound) is int for bound in bounds)  # int(interval(1, 8))
    kind = IntDistribution if of_integers else FloatDistribution
    try:
        return kind(low=bounds[0], high=bounds[1], log="log" in interval.tags)
    except ValueError as error:
        raise UserError(f"{key}: {first_line(error)}") from None


def _example(distribution: BaseDistribution) -> str:
    """Return some value of a distribution, as an override has it."""
    return _text(distribution.choices[0] if hasattr(distribution, "choices") else distribution.low)  # type: ignore[attr-defined]


def _text(value: object) -> str:
    """Return a value as an override has it; of numbers, so many digits as the name of a folder can show."""
    return f"{value:.{DIGITS}g}" if isinstance(value, float) else str(value)
