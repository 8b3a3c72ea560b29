"""The process that `layers.available` asks: puts every layer on and prints which hold, as JSON."""

from __future__ import annotations

import json
import sys

from rightrank.models.confinement import layers

if __name__ == "__main__":
    json.dump(layers.apply([], [], seconds=10, memory=1 << 28), sys.stdout)
