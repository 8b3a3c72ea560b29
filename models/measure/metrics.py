"""The metrics by which a file may be measured, by name (what they are: see `accuracy`).

Without torch, since the service checks a publisher's choice.
"""

from __future__ import annotations

METRICS = ("top1", "top5", "mse", "agreement")
