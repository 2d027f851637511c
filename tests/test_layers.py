"""Imports run one way: every rule about who may know whom, read from the sources themselves."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import ROOT

PACKAGE = ROOT / "src" / "runcard"
MODULES = {
    ".".join(p.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__"): p
    for p in sorted(PACKAGE.rglob("*.py"))
}
# Packages and top-level modules from the bottom up: each imports only from itself and from the lines before its own.
LAYERS = (
    ("errors", "interrupts"),
    ("console", "figures"),
    ("fileio",),
    ("caching",),
    ("config", "stats", "models", "losses", "metrics", "transforms"),
    ("data", "runs"),
    ("datasets", "training", "audit", "compare"),
    ("loggers", "explain", "study", "inference"),
    ("experiment",),
    ("cli",),
)
LEAVES = ("datasets", "models", "losses", "metrics", "transforms")  # what only a YAML of conf/ names


def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def imported(nodes: Iterator[ast.AST] | list[ast.stmt]) -> set[str]:
    """Return the dotted names that these statements import; `from a import b` gives a and a.b."""
    found: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "absolute imports only: this test reads them"
            found |= {node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def imports(module: str) -> set[str]:
    """Return all that a module imports, inside functions and under TYPE_CHECKING too."""
    return imported(ast.walk(tree(MODULES[module])))


def top_level(path: Path) -> set[str]:
    """Return what importing a module imports: not what is inside functions or under TYPE_CHECKING."""
    return imported([node for node in tree(path).body if isinstance(node, (ast.Import, ast.ImportFrom))])


def within(names: set[str], *packages: str) -> set[str]:
    return {name for name in names for package in packages if name == package or name.startswith(f"{package}.")}


def modules(names: set[str]) -> set[str]:
    """Return Runcard's own modules among imported names."""
    return names & (set(MODULES) - {"runcard"})


def package(module: str) -> str:
    """Return the package, or the module at the top, that a module belongs to."""
    return module.split(".")[1]


def leaf_of(module: str) -> str | None:
    return package(module) if module != "runcard" and package(module) in LEAVES else None


def calls(module: str) -> set[str]:
    """Return the last name of everything that a module calls."""
    functions = [node.func for node in ast.walk(tree(MODULES[module])) if isinstance(node, ast.Call)]
    return {
        f.attr if isinstance(f, ast.Attribute) else f.id for f in functions if isinstance(f, (ast.Attribute, ast.Name))
    }


def test_the_modules_are_found():
    assert len(MODULES) >= 80
    assert {leaf_of(module) for module in MODULES} == {*LEAVES, None}
    assert "runcard.errors" in imports("runcard.training.loop")
    assert "torch.nn.functional" in imports("runcard.losses.bce")


def test_every_package_has_a_layer():
    assert {package(module) for module in MODULES if module != "runcard"} == {name for line in LAYERS for name in line}


def test_at_most_six_modules_lie_at_the_top():
    assert len([path for path in PACKAGE.glob("*.py") if path.name != "__init__.py"]) <= 6


@pytest.mark.parametrize("module", sorted(set(MODULES) - {"runcard"}))
def test_no_import_runs_upward(module):
    place = {name: i for i, line in enumerate(LAYERS) for name in line}
    own = package(module)
    for other in sorted({package(name) for name in modules(imports(module))} - {own}):
        assert place[other] < place[own], f"{module} imports from {other}"


def test_no_circular_import():
    """Neither between files nor, by the layers, between packages."""
    waiting = {module: modules(imports(module)) - {module} for module in MODULES}
    while free := [module for module, needed in waiting.items() if not needed & set(waiting)]:
        for module in free:
            del waiting[module]
    assert not waiting, f"these import one another: {', '.join(sorted(waiting))}"


@pytest.mark.parametrize("module", [m for m in MODULES if leaf_of(m)])
def test_leaf_imports_no_other_leaf_and_no_config(module):
    assert {leaf_of(name) for name in modules(imports(module))} <= {leaf_of(module), None}
    assert not within(imports(module), "hydra", "omegaconf", "lightning_fabric")


@pytest.mark.parametrize("module", [m for m in MODULES if m != "runcard" and not leaf_of(m)])
def test_only_a_yaml_names_a_leaf(module):
    """Weight files are read by the pretrained model and by nothing else, but the setup hashes them."""
    assert not {leaf_of(name) for name in modules(imports(module))} - {None}


@pytest.mark.parametrize(
    "module", sorted(m for m in MODULES if m != "runcard" and package(m) not in ("config", "experiment", "study"))
)
def test_only_the_composition_imports_hydra(module):
    assert not within(imports(module), "hydra", "omegaconf")


def test_only_tracking_opens_a_summary_writer():
    assert [m for m in MODULES if within(imports(m), "torch.utils.tensorboard", "tensorboard")] == [
        "runcard.loggers.tensorboard"
    ]


def test_only_checkpoint_writes_checkpoints():
    """Decoded images and features of a frozen part are stored too, a run is exported, weights are read in one more.

    fileio names the errors of reading alone.
    """
    formats = [m for m in MODULES if within(imports(m), "safetensors", "pickle")]
    assert formats == [
        "runcard.audit.decoded",
        "runcard.fileio",
        "runcard.inference.export",
        "runcard.models.pretrained",
        "runcard.training.checkpoint",
        "runcard.training.feature_cache",
    ]

    def naming(function: str) -> list[str]:
        attributes = {m: [n for n in ast.walk(tree(p)) if isinstance(n, ast.Attribute)] for m, p in MODULES.items()}
        return [m for m, found in attributes.items() if function in map(ast.unparse, found)]

    assert naming("torch.save") == ["runcard.training.checkpoint"]
    assert naming("torch.load") == ["runcard.models.pretrained", "runcard.training.checkpoint"]


def test_every_torch_load_is_weights_only():
    loads = [
        node
        for path in MODULES.values()
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load"
    ]
    assert loads
    for node in loads:
        assert [ast.unparse(k.value) for k in node.keywords if k.arg == "weights_only"] == ["True"]


def test_only_probabilities_turns_logits_into_probabilities():
    """Losses do it as part of their own arithmetic."""
    callers = [m for m in MODULES if calls(m) & {"sigmoid", "softmax"} and leaf_of(m) != "losses"]
    assert callers == ["runcard.training.evaluation"]


def imported_by(*arguments: str) -> set[str]:
    """Return the packages, and the modules of Runcard, that Python imports with these arguments."""
    command = [sys.executable, "-X", "importtime", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    names = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if line.startswith("import time:")}
    return names | {name.partition(".")[0] for name in names}


HEAVY = {"torch", "torchvision", "albumentations", "lightning_fabric", "torchmetrics", "scipy", "sklearn", "matplotlib"}


@pytest.mark.parametrize(
    ("arguments", "not_needed"),
    [
        (["train.py", "--help"], {*HEAVY, "cv2", "numpy", "pydantic", "hydra", "omegaconf"}),
        (["train.py", "modle=unet"], {*HEAVY, "cv2", "numpy", "pydantic"}),
        (["train.py", "model=unett"], {*HEAVY, "cv2", "numpy", "pydantic"}),
        (["train.py", "dataset=image_mask", "dataset.root=/nope"], HEAVY),
        (["-c", "from runcard.transforms import AlbumentationsTransform as A; A({})"], HEAVY),
        (["-m", "runcard.cli", "--help"], {*HEAVY, "cv2", "numpy", "hydra", "omegaconf"}),
        (["-m", "runcard.cli", "train", "--help"], {*HEAVY, "cv2", "numpy", "hydra", "omegaconf"}),
        (["-m", "runcard.cli", "audit", "--help"], {*HEAVY, "cv2", "numpy", "hydra", "omegaconf"}),
        (["-m", "runcard.cli", "check-claim", "--metric=dice", "--mean", "91", "90"], {*HEAVY, "numpy", "hydra"}),
        (["-c", "import runcard.audit.command"], {"torch", "torchvision", "torchmetrics", "albumentations"}),
        (["-m", "runcard.cli", "status", "/nope"], {*HEAVY, "cv2", "numpy", "hydra", "omegaconf"}),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_an_answer_waits_for_no_package_that_it_does_not_need(arguments, not_needed):
    names = imported_by(*arguments)
    assert "runcard" in names
    assert not names & not_needed


def test_comparing_needs_no_torch():
    """A report can be made on a laptop from folders copied off a cluster."""
    for module in within(set(MODULES), "runcard.compare", "runcard.stats", "runcard.runs"):
        assert not within(top_level(MODULES[module]), "torch", "lightning_fabric", "torchmetrics", "hydra"), module


@pytest.mark.parametrize("module", MODULES)
def test_no_module_has_a_catch_all_name(module):
    assert not {"utils", "util", "common", "helpers", "helper", "misc"} & set(module.split("."))


@pytest.mark.parametrize("module", ["runcard.experiment.setup", "runcard.experiment.session"])
def test_a_key_of_the_config_has_no_default_in_code(module):
    """No cfg.get(key, default): .get is for the plain dicts named here."""
    plain = {"choices", "PRECISIONS", "record.content", "capabilities", "setup.config"}
    owners = [
        ast.unparse(node.func.value)
        for node in ast.walk(tree(MODULES[module]))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "get"
    ]
    assert owners
    assert set(owners) <= plain
    assert "OmegaConf.select" not in MODULES[module].read_text()


def test_only_the_composition_is_given_the_config():
    """A parameter named cfg, or of the type DictConfig, ends in the experiment's setup."""
    for module, path in MODULES.items():
        arguments = {a.arg for node in ast.walk(tree(path)) if isinstance(node, ast.arguments) for a in node.args}
        assert "cfg" not in arguments or package(module) in ("config", "experiment"), module


def test_no_constructor_that_a_config_reaches_swallows_arguments():
    for module in MODULES:
        for node in ast.walk(tree(MODULES[module])) if leaf_of(module) else ():
            if isinstance(node, ast.FunctionDef) and node.name == "__init__":
                assert node.args.kwarg is None, f"{module}: **{node.args.kwarg}"
