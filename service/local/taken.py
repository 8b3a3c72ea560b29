"""An upload of files that lie here, taken as a service takes it: by the same rules, read by the same confined child."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rightrank.models.checkpoint import sandbox
from rightrank.models.checkpoint.limits import FILES
from rightrank.models.checkpoint.readers import Readers
from rightrank.models.progress import Progress
from rightrank.service.jobs.make import Reading
from rightrank.service.registry.layout import model_id
from rightrank.service.registry.pieces import digest
from rightrank.service.registry.upload import architecture_of, card_of, check_sizes, options_of


@dataclass(frozen=True)
class Given:
    """What a publisher would upload, and what reads it: files, the architecture in words, the options and the card."""

    checkpoint: Path
    readers: Readers
    evaluation: Path | None = None
    calibration: Path | None = None
    architecture: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    card: Mapping[str, Any] | None = None

    @property
    def files(self) -> dict[str, Path]:
        """Those that there are, by role."""
        found = zip(FILES, (self.checkpoint, self.evaluation, self.calibration), strict=True)
        return {role: path for role, path in found if path is not None}

    def described(self) -> dict[str, Any]:
        """The intent of such an upload, as the service writes it down, but for the digests of its files. Raises
        `Problem` where the service would not take it in."""
        sizes = {role: path.stat().st_size for role, path in self.files.items()}
        check_sizes(sizes)
        return {
            "architecture": architecture_of(self.architecture or ""),
            "options": options_of(json.dumps(dict(self.options)), self.files),
            **({"card": said} if (said := card_of(json.dumps(self.card or {}))) else {}),
            "filename": self.checkpoint.name[:200],
            "size": sizes["checkpoint"],
        }

    def identified(self) -> dict[str, Any]:
        """The same with the digests and with the id that the service would give the model."""
        files = self.files
        digests = {role: digest(files[role]) if role in files else None for role in FILES}
        upload = {**digests, **self.described()}
        return {**upload, "id": model_id(upload)}

    def read(self, upload: Mapping[str, Any], folder: Path, progress: Progress) -> Reading:
        """Reads the files, in the confinement that this machine has, into `folder`. Raises what the reader raises, and
        DataError where program, data and options do not go together."""
        progress("read", 0, 1, "models")
        sandbox.prepare(
            self.checkpoint,
            folder,
            architecture=upload["architecture"],
            evaluation=self.evaluation,
            calibration=self.calibration,
            readers=self.readers,
        )
        progress("read", 1, 1, "models")
        return Reading.open(folder, upload)
