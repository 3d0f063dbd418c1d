"""The error texts of both packages, collected from their source, in the families of a page.

docs/troubleshooting.md has a section for each family: what to do, and a comment that names the
texts which stand there in the built site:

    <!-- errors: wsdan/data/cache.py; "must be odd" -->

A path takes the texts of that file or, where it ends with a slash, of the files below; a quoted
part takes those that contain it. Of several keys a part wins, then a file, then the inner folder.
Texts are those of exceptions, warnings and the parser. Only the source is read, nothing imported.

    python docs/site/errors.py    prints the texts that no section has
"""

import ast
import html
import itertools
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "troubleshooting.md"
PACKAGES = ("wsdan", "wsdan_kernels", "native_build")
# Mistakes of a programmer, and what is caught within the packages: no user meets their texts.
INTERNAL = {"AssertionError", "AttributeError", "IndexError", "KeyError", "OSError", "ReadError"}
# Functions that change how their first argument looks, not what it says.
FORMATTERS = {"int", "list_keys", "one_line", "printable", "reason_of", "repr", "shape_text",
              "shortened", "shown", "sorted", "str", "_gigabytes", "_number_text"}  # fmt: skip
SAYS = "self.error"  # of argparse's parsers
MOST = 12  # alternatives of one text
_MARK = re.compile(r"<!-- errors: (.*?) -->", re.DOTALL)
Function = ast.FunctionDef | ast.AsyncFunctionDef


class Text(NamedTuple):
    """A text with its {placeholders}, and the file in which the error begins."""

    file: str
    text: str


class Source:
    """The functions of the packages, and the calls of each: by full name where it is known."""

    def __init__(self, root: Path):
        self.functions: dict[str, Function] = {}
        self.calls: dict[str, list[tuple[str, Function | None, ast.Call]]] = defaultdict(list)
        self.errors: list[tuple[str, Function | None, ast.Call]] = []
        for package in PACKAGES:
            for path in sorted((root / package).rglob("*.py")):
                tree = ast.parse(path.read_text(encoding="utf-8"))
                file = path.relative_to(root).as_posix()
                self._visit(file, _imports(tree), None, tree)

    def _visit(self, file: str, imports: dict, inside: Function | None, node: ast.AST) -> None:
        for child in ast.iter_child_nodes(node):
            within = inside
            if isinstance(child, Function):
                within = child
                if not isinstance(node, ast.ClassDef):
                    self.functions[_full(file, child.name)] = child
            if isinstance(child, ast.Call):
                name = ast.unparse(child.func)
                first, _, rest = name.partition(".")
                full = imports[first] + ("." + rest if rest else "") if first in imports else name
                self.calls[full if "." in full else _full(file, full)].append((file, inside, child))
                if name.rpartition(".")[2].endswith(("Error", "warn")) or name == SAYS:
                    self.errors.append((file, inside, child))
            self._visit(file, imports, within, child)


def _imports(tree: ast.AST) -> dict[str, str]:
    """What a name of the file stands for: a module, or something of one."""
    return {
        alias.asname or alias.name: f"{node.module}.{alias.name}"
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }


def _full(file: str, name: str) -> str:
    return file.removesuffix(".py").removesuffix("/__init__").replace("/", ".") + "." + name


def collected(root: Path = ROOT) -> list[Text]:
    """Every text of an error that a user can meet, once for each file."""
    source, found = Source(root), {}
    for file, inside, call in source.errors:
        if ast.unparse(call.func).rpartition(".")[2] in INTERNAL:
            continue
        for where, text in _texts(source, file, inside, call):
            text = " ".join(text.split())
            if re.search(r"\w", re.sub(r"\{[^}]*\}", "", text)):
                found[Text(where, text)] = None
    return sorted(found)


def _texts(source, file, inside, call) -> Iterator[tuple[str, str]]:
    """The texts of one error: where a helper raises it, one for each text it is called with."""
    message = [x for x in call.args if not isinstance(x, ast.Starred)][-1:]
    if not message:
        return
    bases = _written(source, file, inside, message[0])
    named = {x for base in bases for x in re.findall(r"\{(\w+)\}", base)}
    parameters = [x.arg for x in (*inside.args.args, *inside.args.kwonlyargs)] if inside else []
    if not named & set(parameters):
        yield from ((file, base) for base in bases)
        return
    plain = True
    for where, caller, use in source.calls[_full(file, inside.name)]:
        given = dict(zip(parameters, use.args, strict=False))
        given |= {x.arg: x.value for x in use.keywords}
        values = {
            name: _written(source, where, caller, node)
            for name, node in given.items()
            if name in named and isinstance(node, ast.Constant | ast.JoinedStr | ast.BinOp)
        }
        for base, *chosen in itertools.islice(itertools.product(bases, *values.values()), MOST):
            text = base
            for name, value in zip(values, chosen, strict=True):
                text = text.replace(f"{{{name}}}", value)
            plain = plain and not values
            yield where, text
    if plain:
        yield from ((file, base) for base in bases)


def _written(source, file, inside, node) -> list[str]:
    """What an expression says, with {placeholders}: all alternatives, at most MOST."""
    again = lambda part: _written(source, file, inside, part)  # noqa: E731
    if isinstance(node, ast.Constant):
        return [str(node.value)]
    if isinstance(node, ast.IfExp):
        return (again(node.body) + again(node.orelse))[:MOST]
    if isinstance(node, ast.BinOp) and isinstance(getattr(node.right, "value", None), int):
        return again(node.left)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return _joined([again(node.left), again(node.right)])
    if isinstance(node, ast.JoinedStr):
        return _joined([again(part) for part in node.values])
    if isinstance(node, ast.FormattedValue):
        return again(node.value)
    if isinstance(node, ast.Name):
        return _assigned(source, file, inside, node.id) or [f"{{{node.id}}}"]
    if isinstance(node, ast.Call):
        return _called(source, file, inside, node)
    if isinstance(node, ast.Attribute):
        return [f"{{{node.attr}}}"]
    if isinstance(node, ast.Subscript):
        return [f"{{{getattr(node.value, 'id', getattr(node.value, 'attr', '...'))}}}"]
    return ["{...}"]


def _joined(parts: list[list[str]]) -> list[str]:
    return ["".join(chosen) for chosen in itertools.islice(itertools.product(*parts), MOST)]


def _assigned(source, file, inside, name: str) -> list[str]:
    """The texts that a function assigns to a name."""
    found = []
    for node in ast.walk(inside) if inside else ():
        if isinstance(node, ast.Assign) and any(getattr(x, "id", "") == name for x in node.targets):
            says = isinstance(node.value, ast.Constant | ast.JoinedStr | ast.IfExp)
            if says and f"'{name}'" not in ast.dump(node.value):
                found += [x for x in _written(source, file, inside, node.value) if x != "None"]
    return found[:MOST]


def _called(source, file, inside, node: ast.Call) -> list[str]:
    name = getattr(node.func, "id", None) or getattr(node.func, "attr", "")
    if name == "option_name" and node.args:
        return ["--" + text for text in _written(source, file, inside, node.args[0])]
    if (name in FORMATTERS or name == "join") and node.args:
        first = node.args[0]
        inner = first.elt if isinstance(first, ast.GeneratorExp) else first
        return _written(source, file, inside, inner)
    function = source.functions.get(_full(file, name))
    if function is None or function is inside:
        return [f"{{{name}}}"]
    returned = [x.value for x in ast.walk(function) if isinstance(x, ast.Return) and x.value]
    texts = [text for value in returned for text in _written(source, file, function, value)]
    return [text for text in texts if "{...}" not in text][:MOST] or [f"{{{name}}}"]


def families(page: str) -> list[list[str]]:
    """The keys of each section of the page, in order."""
    return [re.findall(r'"[^"]+"|[^;\s]+', mark) for mark in _MARK.findall(page)]


def placed(page: str, texts: list[Text]) -> tuple[list[list[str]], list[Text]]:
    """The texts of each section, and those that no section has."""
    keys = families(page)
    found, missing = [[] for _ in keys], []
    for item in texts:
        fits = [max(fit(key, item) for key in section) for section in keys]
        best = fits.index(max(fits))
        if fits[best] == 0:
            missing.append(item)
        elif item.text not in found[best]:
            found[best].append(item.text)
    return found, missing


def fit(key: str, item: Text) -> int:
    """How well a key suits a text; 0: not at all."""
    if key.startswith('"'):
        return 1000 * (key[1:-1] in item.text)
    if key.endswith("/"):
        return len(key) * item.file.startswith(key)
    return 999 * (key == item.file)


def filled(page: str, root: Path = ROOT) -> str:
    """The page with the texts of each section in the place of its comment."""
    found, missing = placed(page, collected(root))
    if missing:
        raise ValueError(f"{PAGE.name} has no section for {missing[0].text!r} ({missing[0].file})")
    lists = iter(found)
    return _MARK.sub(lambda _: _listed(next(lists)), page)


def _listed(texts: list[str]) -> str:
    """A list that folds: the texts as HTML, so that no Markdown is read in them."""
    rows = "".join(f"<li><code>{html.escape(text)}</code></li>" for text in sorted(texts))
    return f'<details><summary>{len(texts)} texts</summary><ul class="errors">{rows}</ul></details>'


if __name__ == "__main__":
    for item in placed(PAGE.read_text(encoding="utf-8"), collected())[1]:
        print(f"{item.file}: {item.text}")
