"""Code in a folder is never run."""

import json
import shutil
from pathlib import Path

import families
import mask_families
import phrases
import pytest
from families import images

from detrcli.checkpoints.load import load_checkpoint
from detrcli.errors import WeightsError
from detrcli.inference.detector import Detector

FOLDERS = {
    "conditional": families.folder_of,
    "yolos": families.folder_of,
    "grounding": phrases.folder_of,
    "owlv2": phrases.folder_of,
    "mask2former": mask_families.folder_of,
    "maskformer": mask_families.folder_of,
}
CLASSES = {
    name: f"evil.{name}"
    for name in (
        "AutoConfig", "AutoModelForObjectDetection", "AutoModelForZeroShotObjectDetection", "AutoImageProcessor",
        "AutoModelForUniversalSegmentation", "AutoProcessor",
    )
}  # fmt: skip


@pytest.mark.parametrize("name", FOLDERS)
def test_code_in_a_folder(name: str, tmp_path: Path) -> None:
    """The folder is read by its `model_type`, and a type that only its code defines is refused."""
    folder, marker = tmp_path / "evil", tmp_path / "ran"
    shutil.copytree(FOLDERS[name](name), folder)
    for path in folder.glob("*config.json"):
        own = {**CLASSES, "AutoTokenizer": ["evil.Tokenizer", "evil.Tokenizer"]}
        facts = {**json.loads(path.read_text()), "auto_map": own}
        path.write_text(json.dumps({**facts, "tokenizer_class": "EvilTokenizer"} if "token" in path.name else facts))
    (folder / "evil.py").write_text(f"open({str(marker)!r}, 'w').close()")
    text = ["a star"] if FOLDERS[name] is phrases.folder_of else None
    assert Detector(load_checkpoint(str(folder), phrases=text), "cpu").predict(next(images()), threshold=0.0)
    facts = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**facts, "model_type": "mine"}))
    with pytest.raises(WeightsError, match="'mine'"):
        load_checkpoint(str(folder))
    assert not marker.exists()
