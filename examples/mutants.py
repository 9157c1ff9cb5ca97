"""Small changes of the code, one at a time: does a test of that room notice?

    pip install -e '.[dev]' && python examples/mutants.py [--each 10] [--seed 0] [--rooms losses,matching]

In each room a sample of all such changes is tried: comparisons, signs and numbers changed, `and` for `or`, conditions
turned round, calls and errors left out. The tests run in a copy; a change is killed if they fail, or do not end.
Prints a table, the survivors, and one JSON line. Some survivors do no harm: nothing that they change ever shows.
"""

import argparse
import ast
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from queue import SimpleQueue

ROOT = Path(__file__).parent.parent
# The files of each room, and the tests that stand for them.
ROOMS: Mapping[str, tuple[Sequence[str], Sequence[str]]] = {
    "matching": (["losses/matching.py"], ["losses"]),
    "losses": (["losses/criterion.py", "losses/terms.py"], ["losses", "training/test_step.py"]),
    "scoring": (["losses/scoring.py"], ["losses", "inference/test_postprocess.py"]),
    "transforms": (
        ["data/augmentation.py", "data/preprocessing.py", "resize.py"],
        ["data/test_augmentation.py", "data/test_preprocessing.py", "data/test_resize.py"],
    ),
    "evaluation": (
        ["evaluation/truth.py", "evaluation/metrics.py", "evaluation/results.py", "evaluation/class_mapping.py"],
        ["evaluation"],
    ),
    "resume": (
        ["training/state.py", "training/order.py", "training/begun.py", "data/contents.py"],
        ["training/test_state.py", "training/test_order.py", "training/test_loop.py", "data/test_dataset.py"],
    ),
    "weights": (
        ["checkpoints/checkpoint.py", "checkpoints/fit.py", "checkpoints/formats/header.py",
         "checkpoints/formats/published.py"],
        ["checkpoints/test_checkpoint.py", "checkpoints/test_fit.py", "checkpoints/test_header.py",
         "checkpoints/test_native.py",
         "checkpoints/test_broken_weights.py", "checkpoints/test_published.py"],
    ),
    "inspection": (
        ["inspection/matching.py", "inspection/mistakes.py", "inspection/losses.py", "inspection/usage.py"],
        ["inspection/test_matching_explained.py", "inspection/test_mistakes.py", "inspection/test_losses.py",
         "inspection/test_session.py"],
    ),
}  # fmt: skip
SECONDS = 600  # after which tests count as failed: the change made them endless
# A change may also ask for all the memory that there is.
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
    """One change of one file."""

    room: str
    file: str
    line: int
    before: str
    after: str
    source: str  # of the whole file with the change


def replacements(node: ast.AST) -> Iterator[ast.AST]:
    """What may stand in a node's place."""
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
    """Makes the change of one number, or only counts them. Types, decorators and words are left as they are."""

    def __init__(self, wanted: int = -1) -> None:
        self.wanted, self.seen = wanted, 0
        self.made: tuple[int, str, str] | None = None

    def visit(self, node: ast.AST) -> ast.AST:
        for other in replacements(node):
            if self.seen == self.wanted:
                self.made = (getattr(node, "lineno", 0), ast.unparse(node), ast.unparse(other))
                self.seen += 1
                return ast.copy_location(other, node)
            self.seen += 1
        for name, value in ast.iter_fields(node):
            if name in ("annotation", "returns", "decorator_list"):
                continue
            if isinstance(value, ast.AST):
                setattr(node, name, self.visit(value))
            elif isinstance(value, list):
                value[:] = [self.visit(one) if isinstance(one, ast.AST) else one for one in value]
        return node


def mutants_of(room: str) -> list[tuple[str, int]]:
    """Every change of a room that can be tried: file and number."""
    found = []
    for file in ROOMS[room][0]:
        counted = Change()
        counted.visit(ast.parse((ROOT / "detrcli" / file).read_text(encoding="utf-8")))
        found += [(file, number) for number in range(counted.seen)]
    return found


def mutant(room: str, file: str, number: int) -> Mutant:
    """The change itself."""
    change = Change(number)
    tree = change.visit(ast.parse((ROOT / "detrcli" / file).read_text(encoding="utf-8")))
    assert change.made is not None
    return Mutant(room, file, *change.made, ast.unparse(ast.fix_missing_locations(tree)))


def survives(one: Mutant, copy: Path) -> bool:
    """Run the room's tests in a copy with the change, and take the change back."""
    path = copy / "detrcli" / one.file
    whole = path.read_text(encoding="utf-8")
    path.write_text(one.source, encoding="utf-8")
    tests = [str(copy / "tests" / name) for name in ROOMS[one.room][1]]
    options = ["-x", "-q", "-n", "0", "-p", "no:cacheprovider", "-m", "not slow"]
    try:
        done = subprocess.run(
            [sys.executable, "-c", LIMITED, *options, *tests],
            cwd=copy,
            env={**os.environ, "PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1"},
            capture_output=True,
            timeout=SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return False
    finally:
        path.write_text(whole, encoding="utf-8")
    return done.returncode == 0


def main() -> None:
    """Try a sample in each room."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--each", type=int, default=10, metavar="N", help="changes in each room")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rooms", default=",".join(ROOMS))
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    asked = parser.parse_args()
    rooms, began = asked.rooms.split(","), time.perf_counter()
    possible = {room: mutants_of(room) for room in rooms}
    chosen = [
        mutant(room, file, number)
        for room in rooms
        for file, number in sorted(
            random.Random(f"{asked.seed}/{room}").sample(possible[room], min(asked.each, len(possible[room])))
        )
    ]
    with tempfile.TemporaryDirectory() as place, ThreadPoolExecutor(asked.processes) as pool:
        copies: SimpleQueue[Path] = SimpleQueue()
        for i in range(asked.processes):
            for name in ("detrcli", "tests", "pyproject.toml"):
                source, target = ROOT / name, Path(place, str(i), name)
                target.parent.mkdir(exist_ok=True)
                shutil.copytree(source, target) if source.is_dir() else shutil.copy(source, target)
            copies.put(Path(place, str(i)))

        def tried(one: Mutant) -> bool:
            copy = copies.get()
            try:
                alive = survives(one, copy)
            finally:
                copies.put(copy)
            print(f"{'alive ' if alive else 'killed'} {one.file}:{one.line}", file=sys.stderr, flush=True)
            return alive

        lived = list(pool.map(tried, chosen))

    print(f"{'':12}{'possible':>10}{'tried':>8}{'killed':>8}")
    rows = []
    for room in rooms:
        mine = [lives for one, lives in zip(chosen, lived, strict=True) if one.room == room]
        row = {"room": room, "possible": len(possible[room]), "tried": len(mine), "killed": mine.count(False)}
        rows.append(row)
        print(f"{room:12}{row['possible']:>10}{row['tried']:>8}{row['killed']:>8}")
    survivors = [one for one, lives in zip(chosen, lived, strict=True) if lives]
    for one in survivors:
        print(f"\n{one.file}:{one.line}\n  {one.before}\n  {one.after}")
    left = [{name: value for name, value in asdict(one).items() if name != "source"} for one in survivors]
    print(json.dumps({"rows": rows, "survivors": left, "seconds": round(time.perf_counter() - began)}))


if __name__ == "__main__":
    main()
