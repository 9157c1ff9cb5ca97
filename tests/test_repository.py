"""The README, the workflow, hooks and issue forms of the repository."""

import os
import re

import yaml
from documents import COMMANDS, README, ROOT, command_lines, fenced, read

from detrcli.guide import TOPICS


def test_the_readme_is_short_and_complete() -> None:
    """It has every command in its table, links to every topic of the guide, and two shell blocks of a line each."""
    assert README.stat().st_size <= 8192
    rows = re.findall(r"^\| `detr ([^`]+)` \|", read(README), flags=re.M)
    assert len(rows) == len(COMMANDS)
    for name in COMMANDS:
        assert any(f"{row} ".startswith(f"{name} ") for row in rows), name
    guide = read(README).partition("\n## Guide\n")[2]
    assert re.findall(r"\(detrcli/guide/(\w+)\.md\)", guide) == list(TOPICS)
    install, tests = fenced(read(README), "sh")
    assert len(install.splitlines()) == len(tests.splitlines()) == 1
    assert install.endswith("pip install . && detr demo\n")
    assert tests.endswith("pip install -e '.[dev]' && pytest\n")


def test_the_workflow_calls_the_script() -> None:
    workflow = yaml.safe_load(read(ROOT / ".github/workflows/ci.yml"))
    assert set(workflow[True]) == {"push", "pull_request"}  # YAML 1.1 takes the key `on` for a boolean
    steps = [step for job in workflow["jobs"].values() for step in job["steps"]]
    assert [step["run"] for step in steps if "run" in step] == [".ci/run"]
    assert os.access(ROOT / ".ci/run", os.X_OK)


def test_the_hooks_are_the_checks_of_the_script() -> None:
    hooks = yaml.safe_load(read(ROOT / ".pre-commit-config.yaml"))["repos"][0]["hooks"]
    script = read(ROOT / ".ci/run")
    assert [hook["id"] for hook in hooks] == ["ruff", "ruff-format", "mypy"]
    for hook in hooks:
        assert hook["entry"].removesuffix(" --force-exclude") in script


def test_issue_forms_request_the_versions() -> None:
    requested = {"bug": {"version", "command"}, "feature": {"problem"}, "data": {"version", "check", "layout"}}
    for name, required in requested.items():
        form = yaml.safe_load(read(ROOT / f".github/ISSUE_TEMPLATE/{name}.yml"))
        assert {"name", "description", "body"} <= set(form)
        fields = [field for field in form["body"] if field["type"] != "markdown"]
        assert len(fields) == len({field["id"] for field in fields})
        assert required <= {field["id"] for field in fields if field.get("validations", {}).get("required")}
    assert "--debug" in read(ROOT / ".github/ISSUE_TEMPLATE/bug.yml")
    for line in command_lines(read(ROOT / ".github/ISSUE_TEMPLATE/data.yml")):
        assert line.command in ("data check", "guide") or line.args == ("--version",)
