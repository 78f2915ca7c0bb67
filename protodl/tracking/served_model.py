"""A served model as MLflow loads it: from a copy of this file, which must not need protodl.

No module imports this one; `served.log_model` hands its path to MLflow.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mlflow.exceptions import MlflowException
from mlflow.models import set_model
from mlflow.pyfunc.model import PythonModel

BATCH = 256  # images at once: an explaining model compares each with all training images
DIGITS = 6


class TrainedModel(PythonModel):
    """Images float32 (N, C, H, W) in [0, 1] -> probabilities (N, K), or a dict of reasons for each.

    Which of the two, the facts decide that were logged with the exported network.
    """

    def load_context(self, context: Any) -> None:
        """Load the exported network and the words for its numbers."""
        self.facts = json.loads(Path(context.artifacts["facts"]).read_text(encoding="utf-8"))
        self.network = torch.export.load(context.artifacts["program"]).module()

    # MLflow takes it without a context, and knows no array type but the bare one.
    def predict(  # type: ignore[override]
        self, model_input: np.ndarray, params: dict[str, Any] | None = None
    ) -> Any:
        """Classify or explain a batch; `params["top"]` says how many prototypes to name.

        Raises:
            MlflowException: a pixel lies outside [0, 1], or `top` is not positive.
        """
        images = np.asarray(model_input, dtype=np.float32)
        top = int((params or {}).get("top", 3))
        _require(top >= 1, f"params: top = {top}: must be at least 1")
        low, high = (images.min(), images.max()) if images.size else (0, 0)
        _require(
            low >= 0 and high <= 1,
            f"inputs: pixels from {low} to {high}: must lie in [0, 1]; divide bytes by 255",
        )
        with torch.inference_mode():
            batches = torch.from_numpy(images).split(BATCH)
            outputs = [self.network(batch) for batch in batches]
        if "baseline_logits" not in self.facts:
            return torch.cat(outputs).numpy()
        return [
            self._answer(*numbers, top=top)
            for each in outputs
            for numbers in zip(*each, strict=True)
        ]

    def _answer(
        self,
        logits: torch.Tensor,  # (K,)
        contributions: torch.Tensor,  # (K, P)
        distances: torch.Tensor,  # (P,)
        case_distance: torch.Tensor,
        *,
        top: int,
    ) -> dict[str, Any]:
        """One image's explanation, with the keys of `protodl explain`."""
        probabilities = logits.softmax(dim=0)
        predicted, second = logits.topk(2).indices.tolist()
        strongest = contributions[predicted].topk(min(top, len(distances))).indices.tolist()
        return {
            "row": self.facts["row"],
            "seed": self.facts["seed"],
            "prediction": self._named(predicted, probabilities, logits),
            "runner_up": self._named(second, probabilities, logits),
            "baseline_logits": [round(logit, DIGITS) for logit in self.facts["baseline_logits"]],
            "prototypes": [
                {
                    "index": index,
                    "class": self.facts["prototype_classes"][index],
                    "distance": _number(distances[index]),
                    "contribution": _number(contributions[predicted, index]),
                    "contribution_to_runner_up": _number(contributions[second, index]),
                }
                for index in strongest
            ],
            "out_of_distribution": self._compare_with_limits(
                float(distances.min()), float(case_distance)
            ),
        }

    def _named(
        self, label: int, probabilities: torch.Tensor, logits: torch.Tensor
    ) -> dict[str, Any]:
        return {
            "class": self.facts["class_names"][label],
            "probability": _number(probabilities[label]),
            "logit": _number(logits[label]),
        }

    def _compare_with_limits(
        self, prototype_distance: float, case_distance: float
    ) -> dict[str, Any]:
        """Whether an image is out of distribution: both of its distances exceed their limits.

        A limit is the distance that 99 % of the validation images do not exceed.
        """
        prototype_limit, case_limit = self.facts["prototype_limit"], self.facts["case_limit"]
        return {
            "flag": prototype_distance > prototype_limit and case_distance > case_limit,
            "prototype_distance": round(prototype_distance, DIGITS),
            "prototype_limit": round(prototype_limit, DIGITS),
            "case_distance": round(case_distance, DIGITS),
            "case_limit": round(case_limit, DIGITS),
        }


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise MlflowException.invalid_parameter_value(message)


def _number(value: torch.Tensor) -> float:
    return round(float(value), DIGITS)


set_model(TrainedModel())
