"""What a Python process reads besides the files that it is asked to read: modules and libraries that it loads late.

Reading an exported program makes torch import several hundred modules more, of packages that it finds installed.
"""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path

import rightrank

# Where the packages of this project lie: a checkout, with whatever else is in it, or where all packages are.
ROOT = Path(rightrank.__file__).absolute().parents[1]


def folders() -> list[Path]:
    """The folders (and archives) that modules and libraries are loaded from, and the list of libraries."""
    package = Path(rightrank.__file__).parent
    places = {Path(entry).absolute() for entry in sys.path if entry}
    if not _is_for_packages(ROOT):
        places.discard(ROOT)
    # `rightrank/models` may be a link to a folder beside it, and so may other packages' folders.
    places |= {package.resolve(), Path(__file__).resolve().parents[1], *_packages(), *_libraries()}
    return [*sorted(places), Path("/etc/ld.so.cache")]


def _is_for_packages(folder: Path) -> bool:
    return folder.name in ("site-packages", "dist-packages")


def _packages() -> set[Path]:
    """Where the packages that are loaded really lie."""
    files = (getattr(module, "__file__", None) for name, module in list(sys.modules.items()) if "." not in name)
    return {path.parent for path in (Path(file).resolve() for file in files if file) if path.name == "__init__.py"}


def _libraries() -> set[Path]:
    """The folders of the shared libraries that are loaded: where those that are loaded later lie as well."""
    found = set()
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/maps").read_text().splitlines():
            path = Path(line.partition("/")[2])
            if ".so" in path.suffixes:
                found.add(Path("/") / path.parent)
    return found
