"""Mutation testing: change the code in one place at a time and run the tests of that package.

    pip install -e '.[dev]' && python examples/mutants.py [--each 10] [--seed 0] [--rooms losses,matching]

Tries a random sample of mutants in each group of files: changed comparisons, operators and constants, `and` for `or`,
negated conditions, removed calls and errors. The tests run in a copy; a mutant is killed if they fail or time out.
Prints the survivors, a table, and one JSON line. Some survivors are harmless, because the change has no visible
effect.
"""

import argparse
import ast
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue

from timing import show

ROOT = Path(__file__).parent.parent
# The files of each group, and their tests.
ROOMS: Mapping[str, tuple[Sequence[str], Sequence[str]]] = {
    "matching": (["losses/matching.py"], ["losses"]),
    "losses": (["losses/criterion.py", "losses/terms.py"], ["losses", "training/test_step.py"]),
    "scoring": (["losses/scoring.py"], ["losses", "inference/test_postprocess.py"]),
    "transforms": (
        ["data/augmentation.py", "data/preprocessing.py", "resize.py"],
        ["data/test_augmentation.py", "data/test_preprocessing.py"],
    ),
    "evaluation": (
        ["evaluation/truth.py", "evaluation/metrics.py", "evaluation/results.py", "evaluation/class_mapping.py"],
        ["evaluation"],
    ),
    "resume": (
        ["training/state.py", "training/order.py", "training/run_status.py", "data/annotations.py"],
        ["training/test_state.py", "training/test_order.py", "training/test_loop.py", "data/test_dataset.py"],
    ),
    "weights": (
        ["checkpoints/checkpoint.py", "checkpoints/fit.py", "checkpoints/formats/header.py",
         "checkpoints/formats/published.py"],
        ["checkpoints/test_fit.py", "checkpoints/test_header.py",
         "checkpoints/test_native.py", "checkpoints/test_published.py"],
    ),
    "inspection": (
        ["inspection/matching.py", "inspection/usage.py"],
        ["inspection/test_matching_explained.py", "inspection/test_losses.py", "inspection/test_session.py"],
    ),
}  # fmt: skip
SECONDS = 600  # timeout for mutants with endless loops
# A mutant may also request unlimited memory.
LIMITED = """
import contextlib, sys, pytest
with contextlib.suppress(ImportError):  # not on Windows
    import resource
    resource.setrlimit(resource.RLIMIT_AS, (10 << 30, 10 << 30))
sys.exit(pytest.main(sys.argv[1:]))
"""

COMPARISONS: Mapping[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.In: ast.NotIn, ast.NotIn: ast.In, ast.Is: ast.IsNot, ast.IsNot: ast.Is,
}  # fmt: skip
SIGNS: Mapping[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult,
    ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd,
}  # fmt: skip
LEFT_OUT = frozenset({"float", "clamp", "clip", "detach", "contiguous", "abs", "copy", "strip", "sorted"})


@dataclass(frozen=True)
class Mutant:
    """A change of one file."""

    room: str
    file: str
    line: int
    before: str
    after: str
    source: str  # the whole changed file


def replacements(node: ast.AST) -> Iterator[ast.AST]:
    """Yield the mutations of a node."""
    match node:
        case ast.Compare(left, [operator], [right]) if type(operator) in COMPARISONS:
            yield ast.Compare(left, [COMPARISONS[type(operator)]()], [right])
        case ast.BinOp(left, operator, right) if type(operator) in SIGNS:
            yield ast.BinOp(left, SIGNS[type(operator)](), right)
        case ast.BoolOp(operator, values):
            yield ast.BoolOp(ast.Or() if isinstance(operator, ast.And) else ast.And(), values)
        case ast.UnaryOp(ast.Not() | ast.Invert(), operand):
            yield operand
        case ast.UnaryOp(ast.USub(), operand) if not isinstance(operand, ast.Constant):
            yield operand
        case ast.Constant(bool() as value):
            yield ast.Constant(not value)
        case ast.Constant(int() as value):
            yield ast.Constant(value + 1)
        case ast.Constant(float() as value):
            yield ast.Constant(2 * value + 1e-6)
        case ast.IfExp(test, body, orelse):
            yield ast.IfExp(test, orelse, body)
        case ast.Call(ast.Attribute(value, name), [], []) if name in LEFT_OUT:
            yield value
        case ast.Raise():
            yield ast.Pass()


class Change(ast.NodeTransformer):
    """A transformer that makes mutation number `wanted`, or only counts mutations.

    Annotations, decorators and strings are not changed.
    """

    def __init__(self, wanted: int = -1) -> None:
        self.wanted, self.count = wanted, 0
        self.made: tuple[int, str, str] | None = None

    def visit(self, node: ast.AST) -> ast.AST:
        for replacement in replacements(node):
            if self.count == self.wanted:
                self.made = (getattr(node, "lineno", 0), ast.unparse(node), ast.unparse(replacement))
                self.count += 1
                return ast.copy_location(replacement, node)
            self.count += 1
        for name, value in ast.iter_fields(node):
            if name in ("annotation", "returns", "decorator_list"):
                continue
            if isinstance(value, ast.AST):
                setattr(node, name, self.visit(value))
            elif isinstance(value, list):
                value[:] = [self.visit(item) if isinstance(item, ast.AST) else item for item in value]
        return node


def mutants_of(room: str) -> list[tuple[str, int]]:
    """Return every possible mutation of a group: file and number."""
    mutations = []
    for file in ROOMS[room][0]:
        counter = Change()
        counter.visit(ast.parse((ROOT / "detrcli" / file).read_text(encoding="utf-8")))
        mutations += [(file, number) for number in range(counter.count)]
    return mutations


def make_mutant(room: str, file: str, number: int) -> Mutant:
    change = Change(number)
    tree = change.visit(ast.parse((ROOT / "detrcli" / file).read_text(encoding="utf-8")))
    assert change.made is not None
    return Mutant(room, file, *change.made, ast.unparse(ast.fix_missing_locations(tree)))


def survives(mutant: Mutant, copy: Path) -> bool:
    """Run the tests of the group in a copy with the mutation, then revert it."""
    path = copy / "detrcli" / mutant.file
    original = path.read_text(encoding="utf-8")
    path.write_text(mutant.source, encoding="utf-8")
    tests = [str(copy / "tests" / name) for name in ROOMS[mutant.room][1]]
    options = ["-x", "-q", "-n", "0", "-p", "no:cacheprovider", "-m", "not slow"]
    try:
        environment = {**os.environ, "PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1"}
        command = [sys.executable, "-c", LIMITED, *options, *tests]
        result = subprocess.run(command, cwd=copy, env=environment, capture_output=True, timeout=SECONDS, check=False)
    except subprocess.TimeoutExpired:
        return False
    finally:
        path.write_text(original, encoding="utf-8")
    return result.returncode == 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--each", type=int, default=10, metavar="N", help="mutants per group")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rooms", default=",".join(ROOMS))
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    args = parser.parse_args()
    rooms, start = args.rooms.split(","), time.perf_counter()
    possible = {room: mutants_of(room) for room in rooms}
    chosen = [
        make_mutant(room, file, number)
        for room in rooms
        for file, number in sorted(
            random.Random(f"{args.seed}/{room}").sample(possible[room], min(args.each, len(possible[room])))
        )
    ]
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(args.processes) as pool:
        copies: SimpleQueue[Path] = SimpleQueue()
        for i in range(args.processes):
            for name in ("detrcli", "tests", "pyproject.toml"):
                source, target = ROOT / name, Path(folder, str(i), name)
                target.parent.mkdir(exist_ok=True)
                shutil.copytree(source, target) if source.is_dir() else shutil.copy(source, target)
            copies.put(Path(folder, str(i)))

        def try_mutant(mutant: Mutant) -> bool:
            copy = copies.get()
            try:
                alive = survives(mutant, copy)
            finally:
                copies.put(copy)
            print(f"{'alive ' if alive else 'killed'} {mutant.file}:{mutant.line}", file=sys.stderr, flush=True)
            return alive

        alive = list(pool.map(try_mutant, chosen))

    rows = []
    for room in rooms:
        results = [lives for mutant, lives in zip(chosen, alive, strict=True) if mutant.room == room]
        counts = {"possible": len(possible[room]), "tried": len(results), "killed": results.count(False)}
        rows.append({"room": room, **counts})
    survivors = [mutant for mutant, lives in zip(chosen, alive, strict=True) if lives]
    for mutant in survivors:
        print(f"{mutant.file}:{mutant.line}\n  {mutant.before}\n  {mutant.after}\n")
    show(rows, survivors=len(survivors), seconds=round(time.perf_counter() - start))


if __name__ == "__main__":
    main()
