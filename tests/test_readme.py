"""README, CONTRIBUTING and docs: their code runs, and what they name exists."""

import contextlib
import functools
import io
import re

import pytest
import torch
from paths import ROOT

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
# Options of other programs that the pages name: pip, torchrun, the benchmarks and reports.
OTHER_OPTIONS = {
    "--no-build-isolation", "--no-deps",
    "--nproc-per-node", "--nnodes", "--node-rank", "--rdzv-endpoint", "--max-restarts",
    "--base", "--batch", "--json", "--only", "--plot", "--repeats", "--capability",
    "--results", "--seconds", "--rows", "--table", "--kernel", "--study", "--seeds", "--passes",
    "--held-out", "--quick",
}  # fmt: skip


def each_page(function):
    return pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))(
        function
    )


def blocks(text: str, language: str = r"[^\n]*") -> list[str]:
    """The contents of the fenced blocks; language: a regular expression."""
    fenced = re.findall(r"^```([^\n]*)\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    return [content for name, content in fenced if re.fullmatch(language, name)]


def in_backticks(text: str) -> list[str]:
    """What stands in backticks outside fenced blocks."""
    prose = re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
    return re.findall(r"`([^`\n]+)`", prose)


def code(text: str) -> list[str]:
    """The lines of fenced blocks, and what stands in backticks."""
    return [line for block in blocks(text) for line in block.splitlines()] + in_backticks(text)


@functools.cache
def wsdan_options() -> dict[str, set[str]]:
    """The options of each command of `wsdan`, read from its help."""
    commands = re.findall(r"^ {4}([a-z]+)(?: |$)", help_of(), re.MULTILINE)
    assert {"train", "reproduce"} <= set(commands)
    return {
        name: {
            option
            for line in re.findall(r"^ {2}(-.*)$", help_of(name), re.MULTILINE)
            for option in re.findall(r"--[a-z][\w-]*", line.split("  ")[0])
        }
        for name in commands
    }


def help_of(*command: str) -> str:
    """What `wsdan COMMAND --help` prints."""
    from wsdan import cli

    output = io.StringIO()
    with contextlib.redirect_stdout(output), contextlib.suppress(SystemExit):
        cli.main([*command, "--help"])
    return output.getvalue()


def anchors(text: str) -> set[str]:
    """The targets of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in headings}


def test_the_python_blocks_run(root):
    text = (root / "README.md").read_text(encoding="utf-8")
    examples = blocks(text, "python")
    assert len(examples) == 3
    names = {
        "loader": [(torch.randn(2, 3, 64, 64), torch.tensor([3, 7]))],
        "features": torch.randn(2, 16, 4, 4),
        "attentions": torch.rand(2, 8, 4, 4),
    }
    for example in examples:
        exec(example, names)
    assert torch.isfinite(names["losses"]["loss"])
    assert names["pooled"].shape == (2, 8, 16)
    assert names["views"].shape == (2, 3, 64, 64)
    assert names["boxes"].shape == (2, 4)
    assert callable(names["batch_augment"])


def test_the_example_of_a_reader_is_the_reader(root):
    page = (root / "docs/development/adding-a-dataset-layout.md").read_text(encoding="utf-8")
    shown = blocks(page, "python")[0]
    assert shown == (root / "wsdan/data/readers/pets.py").read_text(encoding="utf-8")


@pytest.mark.parametrize(("name", "most"), [("README.md", 900), ("CONTRIBUTING.md", 1000)])
def test_the_first_pages_are_short(name, most):
    assert len((ROOT / name).read_text(encoding="utf-8").split()) <= most


def test_the_first_screen_shows_an_image():
    first = "\n".join((ROOT / "README.md").read_text(encoding="utf-8").splitlines()[:10])
    assert re.search(r'<img src="|!\[', first)


@each_page
def test_links_and_images_lead_somewhere(page):
    text = page.read_text(encoding="utf-8")
    targets = re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r'(?:src|href)="([^"]+)"', text)
    for target in targets:
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), f"{page.name}: {target} leads to no file"
        if anchor:
            assert anchor in anchors(file.read_text(encoding="utf-8")), f"{page.name}: {target}"


@each_page
def test_paths_in_backticks_exist(page):
    tops = {path.name for path in ROOT.iterdir()} - {"runs", "build"}
    for name in in_backticks(page.read_text(encoding="utf-8")):
        top, slash, _ = name.partition("/")
        is_source = re.fullmatch(r"(\w+/)+\w+\.(py|h|cpp|cu|cuh)", name)
        pattern = re.search(r"[<>*\s]|NAME", name)
        if ((slash and top in tops) or is_source) and not pattern:
            assert (ROOT / name).exists(), f"{page.name}: no {name} in the repository"


@each_page
def test_files_in_commands_exist(page):
    for line in code(page.read_text(encoding="utf-8")):
        for name in re.findall(r"(?:python|pytest) ((?:benchmarks|tests)/[\w/.]+)", line):
            assert (ROOT / name).exists(), f"{page.name}: {line}"


def test_the_map_of_the_tree_is_right():
    """Each path in the map exists, and every folder of code below the top is there."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    (tree,) = (block for block in blocks(text) if "csrc/" in block)
    shown, top = set(), ROOT
    for line in filter(None, tree.splitlines()):
        names = re.split(r"  +", line.strip())[0].split()
        if not line.startswith(" "):
            top = ROOT
        for name in names:
            assert (top / name).exists(), f"CONTRIBUTING.md: no {(top / name).relative_to(ROOT)}"
            shown.add(top / name)
        if not line.startswith(" ") and names[0].endswith("/"):
            top = ROOT / names[0]
    folders = {path.parent for path in (ROOT / "wsdan").rglob("__init__.py")}
    folders |= {path.parent for path in (ROOT / "wsdan_kernels").rglob("__init__.py")}
    folders |= {path for path in (ROOT / "csrc").iterdir() if path.is_dir()}
    missing = [str(path.relative_to(ROOT)) for path in folders - shown]
    assert not missing, f"CONTRIBUTING.md: the map lacks {missing}"


@each_page
def test_options_are_those_of_the_parser(page):
    of_command = wsdan_options()
    known = set().union(*of_command.values()) | OTHER_OPTIONS
    for text in code(page.read_text(encoding="utf-8")):
        for part in text.split("#")[0].split(" && "):
            options = re.findall(r"(?<!\S)--[a-z][\w-]*", part)
            assert set(options) <= known, f"{page.name}: {part} has an option of no program"
            command = re.match(r"(?:torchrun .*-m )?wsdan ([a-z]+)", part.strip())
            if command:
                assert command[1] in of_command, f"{page.name}: no command wsdan {command[1]}"
                own = re.findall(r"--[a-z][\w-]*", part.partition("wsdan ")[2])
                assert set(own) <= of_command[command[1]], f"{page.name}: {part}"
