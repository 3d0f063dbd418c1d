"""What MkDocs does to the pages: error texts, formulas, files from outside docs/."""

import re
import sys
from pathlib import Path

from latex2mathml.converter import convert
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

sys.path.insert(0, str(Path(__file__).parent))
import errors  # beside this file

ROOT = Path(__file__).parents[2]
OUTSIDE = {"CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}
_LINK = re.compile(r"(?<=\]\()((?:\.\./)+)([^)#\s]+)")
_REPEATED = re.compile(r'<h3 id="([\w.]+)" class="doc doc-heading">.*?</h3>', re.DOTALL)
_FORMULA = re.compile(r'<(span|div) class="arithmatex">\\[(\[](.*?)\\[)\]]</\1>', re.DOTALL)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages at the top of the repository, and the results that pages link to."""
    for source, page in OUTSIDE.items():
        text = (ROOT / source).read_text(encoding="utf-8")
        text = re.sub(r"(?<=\]\()docs/", "", text)
        for other, its_page in OUTSIDE.items():
            text = text.replace(f"]({other})", f"]({its_page})")
        files.append(File.generated(config, page, content=text))
    for path in sorted((ROOT / "benchmarks" / "results").glob("*.json")):
        files.append(File.generated(config, f"results/{path.name}", abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Links that leave docs/ go to the copies in the site; error texts take their places."""
    depth = page.file.src_uri.count("/")

    def inside(link: re.Match) -> str:
        up, path = link.groups()
        if up.count("../") <= depth:
            return link[0]
        path = OUTSIDE.get(path, path.replace("benchmarks/results/", "results/"))
        return "../" * depth + path

    markdown = _LINK.sub(inside, markdown)
    if page.file.src_uri == errors.PAGE.name:
        markdown = errors.filled(markdown)
    return markdown


def on_page_content(html: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Formulas as MathML, which browsers draw without a script; an operator's name stands once."""
    for heading in page.toc:
        for section in heading.children:
            section.children = [x for x in section.children if x.title != section.title]
    return _FORMULA.sub(_mathml, _REPEATED.sub(r'<div class="doc" id="\1"></div>', html))


def _mathml(found: re.Match) -> str:
    tag, source = found.groups()
    for name, char in (("&lt;", "<"), ("&gt;", ">"), ("&amp;", "&")):
        source = source.replace(name, char)
    display = "block" if tag == "div" else "inline"
    return f'<{tag} class="arithmatex">{convert(source.strip(), display=display)}</{tag}>'
