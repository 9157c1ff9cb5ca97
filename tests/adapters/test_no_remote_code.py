"""Code that lies in a model's folder is never run."""

import json
import shutil
from pathlib import Path

import pytest
from families import folder_of

from detrcli.checkpoints.load import load_checkpoint
from detrcli.errors import WeightsError

CODE = "import pathlib\npathlib.Path({!r}).touch()\nclass Model: pass\nclass Config: pass\n"


def test_a_folder_that_names_code_of_its_own(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """It is read as what its `model_type` says, and a type that only its code knows is refused."""
    folder, marker = tmp_path / "folder", tmp_path / "it-ran"
    shutil.copytree(folder_of("yolos", tmp_path_factory), folder)
    (folder / "code.py").write_text(CODE.format(str(marker)))
    names = {
        "AutoConfig": "code.Config",
        "AutoModelForObjectDetection": "code.Model",
        "AutoImageProcessor": "code.Model",
    }
    for file in ("config.json", "preprocessor_config.json"):
        facts = json.loads((folder / file).read_text()) if (folder / file).exists() else {}
        (folder / file).write_text(json.dumps({**facts, "auto_map": names}))
    assert load_checkpoint(str(folder)).config.classes > 0
    facts = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**facts, "model_type": "mine"}))
    with pytest.raises(WeightsError, match="of a model of type 'mine'"):
        load_checkpoint(str(folder))
    assert not marker.exists()
