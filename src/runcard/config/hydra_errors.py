"""Hydra's, OmegaConf's and YAML's errors as text: the dotted key or the file, the rule, the nearest valid choices.

Answers in well under a second: nothing here imports torch.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import ConfigCompositionException, HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import InterpolationResolutionError, MissingMandatoryValue, OmegaConfBaseException
from yaml import MarkedYAMLError, YAMLError

from runcard.config.diff import flatten
from runcard.config.project import CONF, choices_of, config_folders
from runcard.config.sweep import relative
from runcard.errors import did_you_mean, first_line, join_first

MAX_LISTED = 18  # keys: all at the top of the config
MAX_ALIKE = 3  # keys of the same last part that are suggested
NO_CHOICE = "Config group override"  # begins Hydra's plain ValueError for a group whose choice is no text
YAML_HINTS = {  # part of the parser's words -> what it usually is
    "mapping values are not allowed": "is it indented as the lines above? A value with ': ' in it needs quotes.",
    "expected <block end>": "is it indented as the lines above?",
    "did not find expected key": "is it indented as the lines above?",
    "did not find expected '-' indicator": "is it indented as the lines above?",
    "did not find expected ',' or": "a list or {} of the line above is not closed.",
    "could not find expected ':'": "a key ends in a colon: key: value.",
    "tab character": "indent by spaces.",
    "that cannot start any token": "indent by spaces, not tabs; a value that begins with @ or ` needs quotes.",
    "found duplicate key": "leave one of the two.",
    "end of stream": "a quote is not closed.",
}


def is_hydras(error: Exception) -> bool:
    """Whether Hydra, OmegaConf or YAML raised an error of theirs: some of Hydra's are plain ValueErrors."""
    own = (HydraException, OmegaConfBaseException, YAMLError, UnicodeDecodeError)
    return isinstance(error, own) or str(error).startswith(NO_CHOICE)


def as_message(
    error: HydraException | OmegaConfBaseException | YAMLError | ValueError, arguments: Sequence[str]
) -> str:
    """Return one to four lines for an error of composing a config from the command line's arguments."""
    message = str(error)
    if isinstance(error, YAMLError):
        return _invalid_yaml(error)
    if isinstance(error, UnicodeDecodeError):
        return f"{_undecodable_file()}: a config is a text file, in UTF-8 ({message})."
    if isinstance(error, MissingConfigException) and (found := re.search(r"Could not find '(.+)'", message)):
        return _no_such_choice(*found[1].rpartition("/")[::2])
    if found := re.match(r"In '(.+)': Could not (?:load|find) '(.+?)'", message):
        return f"{_file(found[1])}, defaults: {_no_such_choice(*found[2].rpartition('/')[::2])}"
    if found := re.match(r"Invalid defaults list in '(.+)', (.+)", message):
        return f"{_file(found[1])}: {found[2]}: each line begins with '- '."
    if message.startswith(NO_CHOICE):
        given = [a.partition("=") for a in arguments]
        wrong = [f"{group}={value}" for group, _, value in given if "." not in group and not value[:1].isalpha()]
        wrong += [f"{group}={value}" for group, _, value in given if value in ("null", "true", "false")]
        return f"{', '.join(wrong)}: a group needs one of its choices. Some have none: scheduler=none."
    if message.startswith("Ambiguous value") and (found := re.search(r"'(.+?)'", message)):
        return f"{found[1]}: several values are a sweep, which needs -m in front; a list is written key=[a,b]."
    if message.startswith("Could not append") and (found := re.search(r"'(.+?)'", message)):
        return f"+{found[1]}: this key is there already. Leave out the +: {found[1]}=…"
    if isinstance(error, ConfigCompositionException) and (found := re.search(r"'([^']+)'", message)):
        return _no_such_key(found[1], arguments)
    if isinstance(error, MissingMandatoryValue) and (found := re.search(r"[\w.]+$", message.splitlines()[0])):
        return f"{found[0]}: this key has no default and must be given: {found[0]}=…"
    if isinstance(error, InterpolationResolutionError):
        return f"{getattr(error, 'full_key', None) or 'config'}: {message.splitlines()[0]}"
    said = (message.strip() or str(error.__cause__)).partition("\nSee https")[0]
    if isinstance(error, OverrideParseException):
        return f"{error.override}: {said}.\n{_how_to_write(error.override)}"
    return f"{said}: {first_line(error.__cause__)}." if said.startswith("Error merging") and error.__cause__ else said


def _how_to_write(override: str) -> str:
    """Return how an override is written that cannot be parsed."""
    key, equals, value = override.partition("=")
    if not equals:
        return f"An override is key=value: {key}=…"
    if value.startswith("["):
        return f"A list is one argument, without spaces or in quotes: '{key}=[a,b]'"
    return "A value with = , [ ( or a space in it is quoted twice: key='\"value\"'."


def _invalid_yaml(error: YAMLError) -> str:
    """Return the file, the line with its text, and what is wrong there."""
    if not isinstance(error, MarkedYAMLError) or error.problem_mark is None:  # bytes that are no text
        return f"{' '.join(str(error).split())}: a config is a text file, in UTF-8."
    opened = error.context in ("while scanning a simple key", "while scanning a quoted scalar")
    mark = error.context_mark if opened and error.context_mark else error.problem_mark  # where it begins, else the end
    path, problem = Path(mark.name), str(error.problem)
    hint = next((f": {hint}" for words, hint in YAML_HINTS.items() if words in problem), ".")
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    text = f" ({lines[mark.line]!r})" if mark.line < len(lines) else ""
    return f"{relative(str(path))}, line {mark.line + 1}{text}: invalid YAML: {problem}{hint}"


def _undecodable_file() -> str:
    """Return the first config file that is not UTF-8, which the error does not name."""
    for path in (path for folder in (*config_folders(), Path("experiments")) for path in folder.rglob("*.yaml")):
        try:
            path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            return str(relative(str(path)))
    return "a file of --config-dir"


def _no_such_choice(group: str, choice: str) -> str:
    choices = choices_of(group)
    known = f"The choices are {', '.join(choices)}." if choices else "There are none yet."
    given = f"{group}={choice}"
    if group.startswith("experiment/"):  # Hydra takes its folders for groups
        given = f"experiment={group.removeprefix('experiment/')}/{choice}"
    return f"{given}: no such file {_file(f'{group}/{choice}')}. {known}{did_you_mean(choice, choices)}"


def _file(config: str) -> str:
    return f"conf/{config}.yaml".replace("conf/experiment/", "experiments/")


def _no_such_key(key: str, arguments: Sequence[str]) -> str:
    config, choices = _composed_without(key, arguments)
    group, _, rest = key.partition(".")
    if group == "hydra":
        group = key.rpartition(".")[0]
    else:
        config = OmegaConf.masked_copy(config, [str(name) for name in config if name != "hydra"])
    leaves = flatten(OmegaConf.to_container(config, resolve=False))  # type: ignore[arg-type]
    keys = list(dict.fromkeys(above for leaf in leaves for above in accumulate(leaf.split("."), "{}.{}".format)))
    where = f" of {group}={choices[group]}" if rest and group in choices else ""
    siblings = [k for k in keys if k.startswith(f"{group}.")] or [*map(str, config), *keys]
    alike = [k for k in keys if k.rpartition(".")[2] == key]
    hint = f" Did you mean {' or '.join(map(repr, alike))}?" if 0 < len(alike) <= MAX_ALIKE else ""
    if others := _choices_with(group, rest):
        hint = f" These have it: {', '.join(f'{group}={choice}' for choice in others)}."
    hint = hint or did_you_mean(key, siblings) or f" There are {join_first(siblings, MAX_LISTED)}."
    return f"{key}: no such option{where}.{hint}"


def _composed_without(key: str, arguments: Sequence[str]) -> tuple[DictConfig, dict[str, str]]:
    """Return the config composed from all group choices among the arguments, and the choices."""
    given = [a for a in arguments if "=" in a and not a.startswith("-")]
    groups = [o.input_line for o in OverridesParser.create().parse_overrides(given) if "." not in o.key_or_group]
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONF)):
        try:
            config = compose("config", [g for g in groups if g and not g.startswith(key)], return_hydra_config=True)
        except HydraException:
            config = compose("config", return_hydra_config=True)
    return config, {str(group): str(choice) for group, choice in config.hydra.runtime.choices.items()}


def _choices_with(group: str, key: str) -> list[str]:
    """Return the choices of a group whose own files set a key at their top: root, of dataset=lungs' relatives."""
    choices = choices_of(group) if key else []
    paths = [(choice, folder / group / f"{choice}.yaml") for folder in config_folders() for choice in choices]
    texts = [(choice, path.read_text(encoding="utf-8", errors="replace")) for choice, path in paths if path.is_file()]
    return [choice for choice, text in texts if re.search(rf"^{re.escape(key)}:", text, re.MULTILINE)]
