"""Runcard: config-driven experiments on medical images whose conclusions hold."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from runcard.inference.predictor import load as load

__version__ = "0.1.0"
IGNORED = 255  # in class maps: a pixel that nobody labelled, which counts nowhere
__all__ = ["IGNORED", "__version__", "load"]


def __getattr__(name: str) -> Any:
    """Import load where it is asked for: it needs torch, which other commands do without."""
    if name == "load":
        from runcard.inference.predictor import load

        return load
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
