"""The architecture, read from imports and strings."""

import ast
import graphlib
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from documents import OPTIONS, PACKAGE, ROOT, read

GROUND = "boxes config errors guide messages polygons reporter resize run_lengths structures system"
FLOORS = (
    GROUND.split(),
    ("data", "losses", "model"),
    ("segmentation",),
    ("architectures",),
    ("checkpoints",),
    ("inference",),
    ("evaluation",),
    ("inspection",),
    ("render",),
    ("training",),
    ("diagnosis",),
    ("api",),
    ("cli",),
    ("__init__", "__main__"),
)
FLOOR_OF = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
FILES = sorted(PACKAGE.rglob("*.py"))
each_file = pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def nodes(path: Path) -> Iterator[ast.AST]:
    return ast.walk(ast.parse(read(path)))


def imported_files(path: Path) -> set[Path]:
    """Return the files of the package that a file imports, also in functions, but not for type checking only."""
    tree, modules = list(nodes(path)), []
    guards = [node for node in tree if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"]
    typing_only = {node for guard in guards for statement in guard.body for node in ast.walk(statement)}
    for node in tree:
        if node in typing_only:
            continue
        if isinstance(node, ast.Import):
            modules += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            modules += [f"{node.module}.{alias.name}" for alias in node.names]
    return {file for module in modules if (file := file_of(module)) is not None}


def file_of(module: str) -> Path | None:
    """Return the file of a module, or of the module that contains a name."""
    head, *rest = module.split(".")
    if head != PACKAGE.name:
        return None
    path = PACKAGE.joinpath(*rest)
    return next(
        (file for file in (path.with_suffix(".py"), path / "__init__.py") if rest and file in FILES),
        PACKAGE / "__init__.py" if len(rest) < 2 else file_of(module.rpartition(".")[0]),
    )


def imports(path: Path) -> set[str]:
    """Return the rooms that a file imports."""
    return {room_of(file) for file in imported_files(path)} - {"__init__"}


@each_file
def test_imports_go_downward(path: Path) -> None:
    """A room imports from lower floors and from itself; on the ground floor also from its neighbors."""
    room = room_of(path)
    for other in imports(path):
        assert other == room or FLOOR_OF[other] < FLOOR_OF[room] or FLOOR_OF[room] == FLOOR_OF[other] == 0, other


def test_imports_have_no_cycles() -> None:
    graph = {path: imported_files(path) - {path} for path in FILES}
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        pytest.fail(" -> ".join(str(path.relative_to(PACKAGE)) for path in error.args[1]))


@each_file
def test_options_are_named_only_by_the_command_line(path: Path) -> None:
    """Elsewhere messages mention arguments. Style sheets in render have names that look like options."""
    options = set().union(*OPTIONS.values()) if room_of(path) != "cli" else set()
    for text in strings(path):
        if room_of(path) != "render" or "{" not in text:
            assert not options & set(re.findall(r"(?<![\w-])--[a-z][a-z0-9-]*", text)), text


def test_model_is_independent_of_settings() -> None:
    assert not any("config" in imports(path) for path in FILES if room_of(path) == "model")


# The dotted name of a module or a tensor of a network.
DOTTED = re.compile(
    r"\b(encoder|decoder|layers|self_attention|cross_attention|projection|class_head|box_head|queries|position)"
    r"\\?\.(\w|\\)|backbone\\?\.(body|conv|stage)"
)
# These may name parts of networks: the models, their architectures, and the readers of other projects' files.
OWNERS = ("model", "architectures", "checkpoints/formats")


def owned(path: Path, *owners: str) -> bool:
    return path.relative_to(PACKAGE).as_posix().startswith(owners)


def strings(path: Path) -> Iterator[str]:
    """Yield the strings of a file that are not documentation."""
    tree = list(nodes(path))
    documentation = {node.value for node in tree if isinstance(node, ast.Expr)}
    for node in tree:
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node not in documentation:
            yield node.value


@each_file
def test_only_owners_name_the_parts_of_a_network(path: Path) -> None:
    if not owned(path, *OWNERS):
        names = [text for text in strings(path) if " " not in text and not text.endswith(".png")]
        assert not [name for name in names if DOTTED.search(name)]


@each_file
def test_only_the_scoring_reads_class_logits(path: Path) -> None:
    """Elsewhere there is no softmax and no slice without the last class, except in attention, boxes and masks."""
    owners = ("losses/scoring", "losses/masks", "model", "segmentation", "architectures/adapters/network")
    if owned(path, *owners, "inference/verification"):  # which compares masks
        return
    for node in nodes(path):
        if isinstance(node, ast.Call):
            called = getattr(node.func, "attr", getattr(node.func, "id", ""))
            assert called not in ("softmax", "log_softmax", "sigmoid", "logsigmoid"), ast.unparse(node)
        if isinstance(node, ast.Subscript):
            assert ast.unparse(node.slice) != "(..., :-1)", ast.unparse(node)


def test_only_architectures_use_their_config() -> None:
    members = {
        node.name
        for path in FILES
        if owned(path, "architectures")
        for node in nodes(path)
        if isinstance(node, ast.ClassDef) and node.name.endswith("Config")
    }
    assert {"DETRConfig", "TinyConfig"} <= members
    for path in FILES:
        if not owned(path, "architectures"):
            named = {getattr(node, field, None) for node in nodes(path) for field in ("id", "attr", "name")}
            assert not named & members, path


@pytest.mark.parametrize(
    "start",
    [
        "import detrcli; dir(detrcli)",
        "import detrcli.cli.app",
        "from detrcli.cli.guide import guide; guide('data')",
    ],
)
def test_command_line_starts_without_torch_and_numpy(start: str) -> None:
    code = f"import sys; {start}; print('|', *sys.modules)"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    modules = shown.stdout.rpartition("|")[2].split()
    assert {"torch", "torchvision", "numpy", "scipy", "PIL", "rich"}.isdisjoint(modules)


def test_no_two_files_of_tests_share_a_name() -> None:
    """Without packages, pytest imports each by its name alone."""
    names = [path.name for path in (ROOT / "tests").rglob("test_*.py")]
    assert len(names) == len(set(names))


def test_top_level_modules() -> None:
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    hidden = ".ci .github .gitignore .pre-commit-config.yaml"
    visible = "CHANGELOG.md LICENSE README.md detrcli examples pyproject.toml tests"
    assert {name.split("/")[0] for name in listed.stdout.splitlines()} == set(f"{hidden} {visible}".split())
