"""What stands in more than one file of the repository is the same in all."""

import json
import re

import yaml
from paths import ROOT

from wsdan_kernels._version import VERSION


def text_of(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def test_the_citation_names_this_version():
    citation = yaml.safe_load(text_of("CITATION.cff"))
    assert citation["version"] == VERSION
    assert citation["license"] in text_of("pyproject.toml")


def test_workflows_run_every_part_of_ci():
    parts = set(re.search(r"^parts=\((.*)\)$", text_of(".ci/run"), re.MULTILINE)[1].split())
    jobs = yaml.safe_load(text_of(".github/workflows/ci.yml"))["jobs"]
    run = {part for item in jobs["ci"]["strategy"]["matrix"]["parts"] for part in item.split()}
    # The photographs are not in the repository.
    assert run == parts - {"install", "photographs"}
    for part in parts:
        assert re.search(rf"^{part}\(\) [({{]", text_of(".ci/run"), re.MULTILINE), part


def test_the_hooks_run_the_versions_of_the_test_extra():
    hooks = yaml.safe_load(text_of(".pre-commit-config.yaml"))
    local = [hook for repo in hooks["repos"] if repo["repo"] == "local" for hook in repo["hooks"]]
    extra = re.search(r"^test = \[(.*)\]$", text_of("pyproject.toml"), re.MULTILINE)[1]
    for hook in local:
        assert hook["entry"].split()[0] in extra, hook["id"]


def test_the_container_installs_what_the_tests_need():
    container = json.loads(text_of(".devcontainer/devcontainer.json"))
    assert "make setup" in container["postCreateCommand"]
    assert "chromium" in container["onCreateCommand"] and "chromium" in text_of(".ci/run")


def test_every_target_of_the_makefile_has_its_line_of_help():
    makefile = text_of("Makefile")
    phony = re.search(r"^\.PHONY: (.*)$", makefile, re.MULTILINE)[1].split()
    targets = re.findall(r"^([a-z-]+):", makefile, re.MULTILINE)
    helped = re.findall(r"^([a-z-]+):.*  ## \S", makefile, re.MULTILINE)
    assert sorted(phony) == sorted(targets) == sorted(helped)
