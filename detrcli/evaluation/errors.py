"""What keeps detections from being perfect, by kind, and what each kind costs (TIDE, arXiv 2008.08115)."""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec

from detrcli.errors import MachineError
from detrcli.evaluation.metrics import columns_of, hotcoco_evaluation
from detrcli.evaluation.results import Results
from detrcli.evaluation.truth import Truth

SAME, NEAR = 0.5, 0.1  # IoU from which a detection finds an object, and from which it is near one
KINDS = {
    "class": ("Cls", "another class, box right"),
    "box": ("Loc", f"class right, IoU {NEAR} to {SAME}"),
    "both": ("Both", f"another class, IoU {NEAR} to {SAME}"),
    "duplicate": ("Dupe", "an object that a surer one found"),
    "background": ("Bkg", f"no object with IoU {NEAR} or more"),
    "missed": ("Miss", "an object that nothing is near"),
}


@dataclass(frozen=True)
class ErrorKind:
    """One kind of error."""

    kind: str  # of KINDS
    count: int
    cost: float  # how much AP50 would gain if these alone were fixed


def errors_of(truth: Truth, results: Results) -> Sequence[ErrorKind]:
    """Every kind, with its cost; detections of images and classes that the truth has not are passed over."""
    if find_spec("hotcoco") is None:
        raise MachineError("The kinds of errors are counted by hotcoco, which this machine has no wheel of.")
    if not len(truth.classes):
        return [ErrorKind(kind, 0, 0.0) for kind in KINDS]
    evaluation = hotcoco_evaluation(columns_of(truth, results))
    evaluation.evaluate()
    found = evaluation.tide_errors(pos_thr=SAME, bg_thr=NEAR)
    return [
        ErrorKind(kind, int(found["counts"][theirs]), float(found["delta_ap"][theirs]))
        for kind, (theirs, _) in KINDS.items()
    ]
