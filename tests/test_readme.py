"""README, CONTRIBUTING and docs: what they name exists; test_pages.py runs their code."""

import contextlib
import functools
import io
import re

import pytest
from pages import LANGUAGES, PAGES, PROGRAMS, blocks_of, commands_of
from paths import ROOT

NOT_RUN = 30  # blocks of code; those that another test runs are not among them
# Options of other programs that the pages name: pip, torchrun, docker, the benchmarks and reports.
OTHER_OPTIONS = {
    "--no-build-isolation", "--no-deps",
    "--nproc-per-node", "--nnodes", "--node-rank", "--rdzv-endpoint", "--max-restarts",
    "--base", "--batch", "--json", "--only", "--plot", "--repeats", "--capability",
    "--results", "--seconds", "--rows", "--table", "--kernel", "--study", "--seeds", "--passes",
    "--held-out", "--quick", "--shm-size",
}  # fmt: skip


def each_page(function):
    return pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))(
        function
    )


def in_backticks(text: str) -> list[str]:
    """What stands in backticks outside fenced blocks."""
    prose = re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
    return re.findall(r"`([^`\n]+)`", prose)


def code(text: str) -> list[str]:
    """The lines of fenced blocks, and what stands in backticks."""
    lines = [line for block in blocks_of(text) for line in block.content.splitlines()]
    return lines + in_backticks(text)


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


def test_every_block_has_its_language():
    for page in PAGES:
        for block in blocks_of(page.read_text(encoding="utf-8")):
            assert block.language in LANGUAGES, f"{page.name}: {block.language}"
            first = block.content.split()[0]
            if block.language == "":
                assert first not in PROGRAMS | {"import", "from"}, f"{page.name}: {first}"
            if block.language == "sh" and block.mark == "":
                assert {words[0] for words in commands_of(block.content)} == {"wsdan"}, page.name


def test_blocks_that_are_not_run_say_why_and_are_counted():
    marked = [
        (page, block)
        for page in PAGES
        for block in blocks_of(page.read_text(encoding="utf-8"))
        if block.mark
    ]
    for page, block in marked:
        assert block.reason, page.name
        if block.mark == "run-by":
            other = (ROOT / block.reason).read_text(encoding="utf-8")
            assert page.name in other, f"{page.name}: {block.reason} does not read it"
    not_run = sum(block.mark == "not-run" for _, block in marked)
    assert not_run == NOT_RUN, "a block that can run should; NOT_RUN counts the others"
    everywhere = "".join(page.read_text(encoding="utf-8") for page in PAGES)
    assert len(re.findall("^<!--(?:not-run|run-by)", everywhere, re.MULTILINE)) == len(marked)


def test_the_example_of_a_reader_is_the_reader(root):
    page = (root / "docs/development/adding-a-dataset-layout.md").read_text(encoding="utf-8")
    shown = next(x.content for x in blocks_of(page) if x.language == "python")
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
    (tree,) = (block.content for block in blocks_of(text) if "csrc/" in block.content)
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
