"""torchvision where it was built for another torch: it imports once the operators that it lacks are declared."""

from __future__ import annotations

from typing import Any

import torch

# A declaration holds for as long as what made it.
DECLARED: list[Any] = []


def declare() -> None:
    """Declare them; before torchvision is imported."""
    schema: Any = torch.library.Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call]
    for operator in ("nms", "qnms"):
        if not hasattr(torch.ops.torchvision, operator):
            schema.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    DECLARED.append(schema)
