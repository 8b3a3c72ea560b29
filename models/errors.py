"""What can go wrong with a model, as one tree.

RightRankError
├── CheckpointError        the uploaded bytes cannot be used
│   ├── UnsafeCheckpoint       they carry, or could carry, code or a bomb
│   ├── UnsupportedCheckpoint  a format or an operator that is not read
│   └── MalformedCheckpoint    cut, empty, inconsistent, NaN weights, wrong tensors
├── DataError              evaluation or calibration data do not fit
├── BudgetError            no plan satisfies the request
├── FormatError            the model cannot be a file of the format asked for
├── PrecisionError         the model's numbers do not allow what its files were asked in
├── ExportError            a module that cannot be written as a file to publish
├── UnreadableMaster       what is stored is of a version that this one does not read
└── Cancelled              the caller asked to stop
"""

from __future__ import annotations


class RightRankError(Exception):
    """A failure with a stable `kind`, a sentence saying what is wrong, and a `hint` saying what to do."""

    kind = "internal"

    def __init__(self, detail: str, hint: str = "") -> None:
        super().__init__(f"{detail} {hint}".strip())
        self.detail = detail
        self.hint = hint


class CheckpointError(RightRankError):
    kind = "checkpoint-unusable"


class UnsafeCheckpoint(CheckpointError):
    kind = "checkpoint-unsafe"


class UnsupportedCheckpoint(CheckpointError):
    kind = "checkpoint-unsupported"


class MalformedCheckpoint(CheckpointError):
    kind = "checkpoint-malformed"


class DataError(RightRankError):
    kind = "data-unusable"


class BudgetError(RightRankError):
    """No plan satisfies what was asked; `nearest` is the closest value of the same quantity that one does, `limit`
    the name of that quantity's limit where several were given."""

    kind = "budget-unreachable"

    def __init__(self, detail: str, hint: str = "", nearest: float | None = None, limit: str | None = None) -> None:
        super().__init__(detail, hint)
        self.nearest = nearest
        self.limit = limit


class FormatError(RightRankError):
    kind = "format-unavailable"


class PrecisionError(RightRankError):
    kind = "precision-unavailable"


class ExportError(RightRankError):
    kind = "checkpoint-unusable"


class UnreadableMaster(RightRankError):
    kind = "master-unreadable"


class Cancelled(RightRankError):
    kind = "cancelled"
