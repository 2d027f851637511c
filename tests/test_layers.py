"""Imports run one way. Every rule of DESIGN 1 and 2 about who may know whom, read from the sources themselves."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import ROOT

PACKAGE = ROOT / "src" / "runcard"
LEAVES = ("datasets", "models", "losses", "metrics", "augmentation")
MODULES = {
    ".".join(p.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__"): p
    for p in sorted(PACKAGE.rglob("*.py"))
}
SHARED_BY_LEAVES = {f"runcard.{name}" for name in ("errors", "images", "initialization", "seeding", "weights")}
CONFIG_READERS = {f"runcard.{m}" for m in ("build", "parts", "run", "launch", "hydra_errors", "cards", "study_cards")}


def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def imported(nodes: Iterator[ast.AST] | list[ast.stmt]) -> set[str]:
    """Returns the dotted names that these statements import; `from a import b` gives a and a.b."""
    found: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "absolute imports only: this test reads them"
            found |= {node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def imports(module: str) -> set[str]:
    """Returns all that a module imports, inside functions and under TYPE_CHECKING too."""
    return imported(ast.walk(tree(MODULES[module])))


def top_level(path: Path) -> set[str]:
    """Returns what importing a module imports: not what is inside functions or under TYPE_CHECKING."""
    return imported([node for node in tree(path).body if isinstance(node, (ast.Import, ast.ImportFrom))])


def within(names: set[str], *packages: str) -> set[str]:
    return {name for name in names for package in packages if name == package or name.startswith(f"{package}.")}


def modules(names: set[str]) -> set[str]:
    """Returns the modules of the house among imported names."""
    return names & (set(MODULES) - {"runcard"})


def leaf_of(module: str) -> str | None:
    return next((leaf for leaf in LEAVES if within({module}, f"runcard.{leaf}")), None)


def calls(module: str) -> set[str]:
    """Returns the last name of everything that a module calls."""
    functions = [node.func for node in ast.walk(tree(MODULES[module])) if isinstance(node, ast.Call)]
    return {
        f.attr if isinstance(f, ast.Attribute) else f.id for f in functions if isinstance(f, (ast.Attribute, ast.Name))
    }


def test_the_modules_are_found():
    assert len(MODULES) >= 35
    assert {leaf_of(module) for module in MODULES} == {*LEAVES, None}
    assert "runcard.errors" in imports("runcard.engine")
    assert "torch.nn.functional" in imports("runcard.losses.bce")


@pytest.mark.parametrize("module", [m for m in MODULES if leaf_of(m)])
def test_a_leaf_knows_no_other_leaf_and_nothing_above_it(module):
    assert {name for name in modules(imports(module)) if leaf_of(name) != leaf_of(module)} <= SHARED_BY_LEAVES
    assert not within(imports(module), "hydra", "omegaconf", "lightning_fabric")


@pytest.mark.parametrize("module", [m for m in MODULES if not leaf_of(m)])
def test_nothing_above_imports_a_leaf(module):
    assert not within(imports(module), *(f"runcard.{leaf}" for leaf in LEAVES))


def test_what_leaves_share_stands_on_nothing():
    for module in SHARED_BY_LEAVES:
        assert modules(imports(module)) <= {"runcard.errors"}


ENGINE_KNOWS = {
    f"runcard.{m}" for m in ("checkpoint", "errors", "loaders", "probabilities", "seeding", "settings", "tracking")
}
ABOVE = {"runcard.engine", "runcard.parts", "runcard.run"}


def test_the_engine_knows_only_what_it_is_given():
    assert modules(imports("runcard.engine")) == ENGINE_KNOWS
    for module in ENGINE_KNOWS:
        assert not modules(top_level(MODULES[module])) & ABOVE, module


@pytest.mark.parametrize("module", sorted(set(MODULES) - CONFIG_READERS))
def test_only_the_composition_knows_hydra(module):
    assert not within(imports(module), "hydra", "omegaconf")


def test_only_tracking_opens_a_summary_writer():
    assert [m for m in MODULES if within(imports(m), "torch.utils.tensorboard", "tensorboard")] == ["runcard.tracking"]


def test_only_checkpoint_writes_checkpoints():
    """Features of a frozen part are stored too, and weights are read in one more place."""
    formats = [m for m in MODULES if within(imports(m), "safetensors", "pickle")]
    assert formats == ["runcard.checkpoint", "runcard.features", "runcard.weights"]

    def naming(function: str) -> list[str]:
        attributes = {m: [n for n in ast.walk(tree(p)) if isinstance(n, ast.Attribute)] for m, p in MODULES.items()}
        return [m for m, found in attributes.items() if function in map(ast.unparse, found)]

    assert naming("torch.save") == ["runcard.checkpoint"]
    assert naming("torch.load") == ["runcard.checkpoint", "runcard.weights"]


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
    assert callers == ["runcard.probabilities"]


@pytest.mark.parametrize("name", ["launch", "hydra_errors", "errors"])
def test_what_runs_before_torch_does_not_import_it(name):
    path = MODULES[f"runcard.{name}"]
    assert not within(top_level(path), "torch", "torchvision", "albumentations", "lightning_fabric", "torchmetrics")
    assert modules(top_level(path)) <= {"runcard.errors"}


def test_train_py_waits_with_torch_until_the_card_is_composed():
    found = top_level(ROOT / "train.py")
    assert not within(found, "torch", "albumentations", "lightning_fabric")
    assert modules(found) <= {f"runcard.{name}" for name in ("cards", "errors", "hydra_errors", "launch")}


def test_torch_is_really_not_loaded():
    code = "import sys, runcard.launch, runcard.hydra_errors, train; assert 'torch' not in sys.modules, 'torch'"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=60)


def test_comparing_needs_no_torch():
    """A report can be made on a laptop from folders copied off a cluster."""
    for module in within(set(MODULES), "runcard.compare"):
        assert not within(imports(module), "torch", "lightning_fabric", "torchmetrics", *ABOVE), module


@pytest.mark.parametrize("module", MODULES)
def test_no_module_is_a_drawer(module):
    assert not {"utils", "util", "common", "helpers", "helper", "misc"} & set(module.split("."))


@pytest.mark.parametrize("module", ["runcard.parts", "runcard.run"])
def test_a_key_of_the_card_has_no_default_in_code(module):
    """No cfg.get(key, default): .get is for the plain dicts named here."""
    plain = {"choices", "PRECISIONS", "record.content", "capabilities", "parts.config"}
    owners = [
        ast.unparse(node.func.value)
        for node in ast.walk(tree(MODULES[module]))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "get"
    ]
    assert owners
    assert set(owners) <= plain
    assert "OmegaConf.select" not in MODULES[module].read_text()


def test_only_the_composition_is_given_the_card():
    """A parameter named cfg, or of the type DictConfig, ends in parts.py."""
    for module, path in MODULES.items():
        arguments = {a.arg for node in ast.walk(tree(path)) if isinstance(node, ast.arguments) for a in node.args}
        assert "cfg" not in arguments or module in {"runcard.parts", "runcard.run"}, module


def test_no_constructor_that_a_card_reaches_swallows_arguments():
    for module in MODULES:
        for node in ast.walk(tree(MODULES[module])) if leaf_of(module) else ():
            if isinstance(node, ast.FunctionDef) and node.name == "__init__":
                assert node.args.kwarg is None, f"{module}: **{node.args.kwarg}"
