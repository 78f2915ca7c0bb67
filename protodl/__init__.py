"""Prototype networks: neural networks that explain their predictions by resemblance.

    model = protodl.load("mnist-small-deconv")
    print(protodl.explain(model, "seven.png"))

The names of `__all__` are imported when first used: `import protodl` loads no torch.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from protodl.explanation.loading import load
    from protodl.explanation.local import explain
    from protodl.explanation.model import Model
    from protodl.explanation.types import Explanation

__version__ = "0.1.0"
__all__ = ["Explanation", "Model", "explain", "load"]
_HOMES = {"Explanation": "types", "Model": "model", "explain": "local", "load": "loading"}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"protodl.explanation.{_HOMES[name]}"), name)
