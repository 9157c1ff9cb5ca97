"""The workflow, hooks and issue forms of the repository."""

import os

import yaml
from documents import ROOT, command_lines, read


def test_the_workflow_calls_the_script() -> None:
    workflow = yaml.safe_load(read(ROOT / ".github/workflows/ci.yml"))
    on = workflow[True]  # YAML 1.1 takes the key `on` for a boolean
    assert set(on) == {"push", "pull_request"}
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
    asked = {"bug": {"version", "command"}, "feature": {"problem"}, "data": {"version", "check", "layout"}}
    for name, required in asked.items():
        text = read(ROOT / f".github/ISSUE_TEMPLATE/{name}.yml")
        form = yaml.safe_load(text)
        assert {"name", "description", "body"} <= set(form)
        fields = [field for field in form["body"] if field["type"] != "markdown"]
        names = [field["id"] for field in fields]
        assert len(names) == len(set(names))
        assert required <= {field["id"] for field in fields if field.get("validations", {}).get("required")}
    assert "--debug" in read(ROOT / ".github/ISSUE_TEMPLATE/bug.yml")
    for line in command_lines(read(ROOT / ".github/ISSUE_TEMPLATE/data.yml")):
        assert line.command in ("data check", "guide") or line.args == ("--version",)
