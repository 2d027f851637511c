"""Tables of pages, made of what the code itself says: comments in conf/, the schema, the commands, the checks, runs.

A page asks for one by a comment such as <!-- generated: keys config.yaml train -->; hooks.py puts it there.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from pydoc import locate
from typing import Any, NamedTuple, get_args

import lab
import typer
import yaml
from pydantic import ValidationError

from runcard.audit import findings
from runcard.cli import app
from runcard.config.help import keys_of
from runcard.config.schema import Config, Section, fault_lines

ROOT = Path(__file__).resolve().parents[2]
CONF = ROOT / "conf"
PICTURES = ROOT / "docs" / "images" / "checks"
PLAIN = {"a string": "text", "true or false": "true, false", "a list": "a list", "a group of keys": "keys"}


class Key(NamedTuple):
    """A key of a config file, as it is written there."""

    name: str  # dotted, as on the command line
    default: str
    comment: str


def title_of(path: Path) -> str:
    """Return the comment at the top of a config file."""
    lines = path.read_text(encoding="utf-8").splitlines()
    top = []
    for line in lines:
        if not line.startswith("#"):
            break
        if not line.startswith("# @package"):
            top.append(line.removeprefix("# "))
    return " ".join(top)


def rule_of(name: str) -> str:
    """Return what the schema demands of a key's value, or "" of a key that a library checks."""
    section: Any = Config
    *places, last = name.split(".")
    for place in places:
        field = getattr(section, "model_fields", {}).get(place)
        section = field.annotation if field else None
    if not (isinstance(section, type) and issubclass(section, Section)) or last not in section.model_fields:
        return ""
    try:
        section.model_validate({last: object()})
    except ValidationError as error:
        said = [re.match(rf"{last} must (?:be |name )?(.*?), got", line) for line in fault_lines(error, section)]
    rule = next(match[1] for match in said if match)
    rule = PLAIN.get(rule, rule.removeprefix("one of "))
    return f"{rule}, null" if type(None) in get_args(section.model_fields[last].annotation) else rule


def keys(file: str, section: str = "") -> str:
    """Return the table of a file of conf/: of one of its sections, "-" of the keys outside of all sections."""
    path = CONF / file
    rows = [key for key in named_keys(path) if not key.default.startswith("${derived.")]
    if section == "-":
        rows = [key for key in rows if "." not in key.name and key.default]
    elif section:
        rows = [key for key in rows if key.name.startswith(f"{section}.")]
    return key_table([key._replace(comment=key.comment or inherited(key, path)) for key in rows])


@cache
def named_keys(path: Path) -> list[Key]:
    """Return the keys of a file of conf/ by the names that they have on the command line."""
    is_global = path.parent == CONF or "@package _global_" in path.read_text(encoding="utf-8")
    group = ".".join(path.parent.relative_to(CONF).parts)
    prefix = "" if is_global else {"split": "dataset.split"}.get(group, group) + "."
    lines = path.read_text(encoding="utf-8").splitlines()
    return [Key(name, _class(value), comment) for name, value, comment in keys_of(lines, prefix) if value or comment]


def _class(value: str) -> str:
    """Return the class of an object that is written in one line; any other value as it is."""
    target = re.search(r"_target_: ([\w.]+)", value)
    return target[1] if target else value


def inherited(key: Key, path: Path) -> str:
    """Return what a file does not say again: the comment of the choice it extends, or of another; or a docstring."""
    others = [
        path.with_name(f"{_parent(path)}.yaml"),
        *sorted(path.parent.glob("*.yaml")),
        *sorted(CONF.glob("*/*.yaml")),
    ]
    for other in [CONF / "config.yaml", *(each for each in others if each.is_file())]:
        for each in named_keys(other):
            if each.name == key.name and each.comment:
                return each.comment
    if re.fullmatch(r"runcard(\.\w+)+", key.default):
        return str(inspect.getdoc(locate(key.default))).splitlines()[0]
    return ""


def key_table(rows: list[Key]) -> str:
    """Return keys as a table; values only where the schema says something of any of them."""
    rules = [rule_of(key.name) for key in rows]
    names = ["key", "default", *(["value"] if any(rules) else []), "meaning"]
    cells = [
        [
            f"`{key.name}`",
            f"`{_short(key.default)}`" if key.default else "",
            *([rule] if any(rules) else []),
            escaped(key.comment),
        ]
        for key, rule in zip(rows, rules, strict=True)
    ]
    return table(names, cells)


def _short(default: str) -> str:
    """Return a class without its package."""
    return default.rpartition(".")[2] if re.fullmatch(r"(runcard|torchmetrics)(\.\w+)+", default) else default


def escaped(text: str) -> str:
    """Return text in which Markdown reads no signs, except for code in backticks."""
    parts = re.split("(`[^`]*`)", text)
    return "".join(part if part.startswith("`") else re.sub(r"([*_\[\]<])", r"\\\1", part) for part in parts)


def table(names: list[str], rows: list[list[str]]) -> str:
    """Return a table in Markdown."""
    lines = [names, ["---"] * len(names), *([cell.replace("|", "\\|") for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def choices(group: str) -> str:
    """Return a section for each choice of a group: its title, and the keys that its file sets."""
    parts = []
    for path in sorted((CONF / group).glob("*.yaml")):
        override = f"{group}={path.stem}"
        parts.append(f"### `{override}`\n\n{escaped(title_of(path))}")
        parent = _parent(path)
        if parent:
            parts.append(f"The keys of `{group}={parent}`, and:")
        of_file = keys(f"{group}/{path.name}")
        if of_file.count("\n") > 1:
            parts.append(of_file)
    return "\n\n".join(parts)


def _parent(path: Path) -> str:
    """Return the choice of the same group that a file extends, or ""."""
    defaults = yaml.safe_load(path.read_text(encoding="utf-8")).get("defaults", [])
    return next((each.partition("@")[0] for each in defaults if isinstance(each, str) and each != "_self_"), "")


def commands() -> str:
    """Return a section for each command: what it does, its arguments and options."""
    found = typer.main.get_command(app)
    assert isinstance(found, typer.core.TyperGroup)
    parts, panel = [], None
    for name, command in found.commands.items():
        if (group := getattr(command, "rich_help_panel", None)) != panel:
            panel = group
            parts.append(f"## {panel}")
        usage = " ".join(["runcard", name, *map(_usage, command.params)])
        parts.append(f"### runcard {name}\n\n{command.help}\n\n```text\n{usage}\n```")
        rows = [
            [f"`{_names(each)}`", _default(each), escaped(getattr(each, "help", None) or "")] for each in command.params
        ]
        if rows:
            parts.append(table(["argument or option", "default", "meaning"], rows))
    return "\n\n".join(parts)


def _usage(parameter: Any) -> str:
    if parameter.param_type_name == "argument":
        name = parameter.name.upper() + ("…" if parameter.nargs == -1 else "")
        return name if parameter.required else f"[{name}]"
    if parameter.is_flag:
        return f"[{(parameter.secondary_opts if parameter.default is True else parameter.opts)[0]}]"
    text = " ".join([parameter.opts[-1], *[parameter.name.upper()] * parameter.nargs])
    return text if parameter.required else f"[{text}]"


def _names(parameter: Any) -> str:
    if parameter.param_type_name == "argument":
        return str(parameter.name.upper())
    return ", ".join([*parameter.opts, *parameter.secondary_opts])


def _default(parameter: Any) -> str:
    if parameter.required:
        return "needed"
    if parameter.default in (None, False, ()) or callable(parameter.default):
        return ""
    if parameter.default is True:
        return f"`{parameter.opts[0]}`"
    return f"`{parameter.default}`"


def checks() -> str:
    """Return a section for each check of the audit, with its picture where there is one."""
    parts = []
    for comment, name in re.findall(r"^    (?:# (.+)|\"(\w+)\": \()", inspect.getsource(findings), re.MULTILINE):
        if comment:
            parts.append(f"## {comment.capitalize()}")
        elif name in findings.CHECKS:
            level, what = findings.CHECKS[name]
            parts.append(f"### `{name}`\n\n*{level.capitalize()}*: {what}.")
            if (PICTURES / f"{name}.jpg").is_file():
                parts.append(f"![{name}: {what}](../images/checks/{name}.jpg)")
    return "\n\n".join(parts)


def claims() -> str:
    """Return the table of all claims of the lab report."""
    columns, rows = lab.claims()
    return table(columns, [[*map(escaped, row)] for row in rows])


GENERATORS: dict[str, Callable[..., str]] = {"keys": keys, "choices": choices, "commands": commands, "checks": checks}
GENERATORS |= {"claims": claims}


def fill_in(markdown: str) -> str:
    """Replace each comment that asks for a table by the table."""
    return re.sub(r"<!-- generated: (\w+)(.*?) -->", lambda found: GENERATORS[found[1]](*found[2].split()), markdown)
