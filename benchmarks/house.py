"""A checkout's sources to a table of how hard they are to take over: sizes, circles, long signatures, loose types.

``python benchmarks/house.py [FOLDER]...`` prints one column a checkout. Lines are of ``src`` and include empty ones; a
function's length counts its docstring. A circle is a group of modules that import each other in a ring, also by imports
inside functions; imports under ``if TYPE_CHECKING`` do not run and do not count. Needs the standard library and SciPy.
"""

import argparse
import ast
import re
import statistics
from collections.abc import Iterator
from pathlib import Path

from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

PACKAGE, MOST_PARAMETERS = "hemalens", 6
MARKS = {"dict[str, Any]": r"dict\[str, Any\]", "noqa": r"#\s*noqa", "type: ignore": r"#\s*type:\s*ignore"}
Function = ast.FunctionDef | ast.AsyncFunctionDef


def modules(folder: Path) -> dict[str, Path]:
    """Return the modules of a checkout by name."""
    root = folder / "src"
    found = {}
    for path in sorted((root / PACKAGE).rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def running(tree: ast.AST) -> Iterator[ast.AST]:
    """Yield the nodes of a module but those that only a type checker sees."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        yield node
        yield from running(node)


def imported(tree: ast.AST, own: str, is_package: bool, known: dict[str, Path]) -> set[str]:
    """Return the package's modules that a module names in its imports, wherever these stand."""
    found: set[str] = set()
    for node in running(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = own.split(".")[: len(own.split(".")) - node.level + is_package] if node.level else []
            base = ".".join([*above, *filter(None, [node.module])])
            for alias in node.names:
                inner = f"{base}.{alias.name}"
                found.add(inner if inner in known else base)
    return {name for name in found if name in known and name != own}


def circles(trees: dict[str, ast.AST], known: dict[str, Path]) -> list[list[str]]:
    """Return the strongly connected groups of two modules or more."""
    names = list(trees)
    pairs = [
        (names.index(name), names.index(other))
        for name, tree in trees.items()
        for other in imported(tree, name, known[name].name == "__init__.py", known)
    ]
    rows, columns = zip(*pairs, strict=True)
    graph = coo_matrix(([1] * len(pairs), (rows, columns)), shape=(len(names), len(names)))
    count, labels = connected_components(graph, directed=True, connection="strong")
    groups = [[name for name, label in zip(names, labels, strict=True) if label == index] for index in range(count)]
    return [group for group in groups if len(group) > 1]


def parameters(function: Function) -> int:
    """Return how many values a caller can pass; ``self`` and ``cls`` are not passed."""
    given = function.args
    named = [one.arg for one in (*given.posonlyargs, *given.args, *given.kwonlyargs)]
    return len([name for name in named if name not in ("self", "cls")]) + bool(given.vararg) + bool(given.kwarg)


def table(folder: Path) -> dict[str, str]:
    """Return the rows of a checkout."""
    known = modules(folder)
    texts = {name: path.read_text(encoding="utf-8") for name, path in known.items()}
    trees = {name: ast.parse(text) for name, text in texts.items()}
    functions = [(name, node) for name, tree in trees.items() for node in ast.walk(tree) if isinstance(node, Function)]
    lengths = sorted((node.end_lineno or node.lineno) - node.lineno + 1 for _, node in functions)
    tenths = statistics.quantiles(lengths, n=10)
    rings = circles(trees, known)
    long = [f"{name}." for name, node in functions if parameters(node) > MOST_PARAMETERS]
    counts = [text.count("\n") for text in texts.values()]
    found = {
        "modules": str(len(known)),
        "lines": f"{sum(counts):,}",
        "largest module, lines": str(max(counts)),
        "functions": f"{len(functions):,}",
        "function, lines: median / 90 % / largest": f"{statistics.median(lengths):g} / {tenths[8]:.0f} / {lengths[-1]}",
        "circles (modules in them)": f"{len(rings)} ({sum(map(len, rings))})",
        f"functions of more than {MOST_PARAMETERS} parameters": str(len(long)),
        "of these not commands, whose options are parameters": str(sum(".commands." not in name for name in long)),
    }
    everything = "\n".join(texts.values())
    return found | {f"`{name}`": str(len(re.findall(pattern, everything))) for name, pattern in MARKS.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folders", nargs="*", type=Path, default=[Path(__file__).parents[1]], help="checkouts")
    parser.add_argument("--circles", action="store_true", help="also name the modules of each circle")
    options = parser.parse_args()
    columns = [table(folder) for folder in options.folders]
    print("| | " + " | ".join(str(folder.resolve().name) for folder in options.folders) + " |")
    print("|---|" + "---|" * len(columns))
    for row in columns[0]:
        print(f"| {row} | " + " | ".join(column[row] for column in columns) + " |")
    if options.circles:
        for folder in options.folders:
            known = modules(folder)
            trees: dict[str, ast.AST] = {
                name: ast.parse(path.read_text(encoding="utf-8")) for name, path in known.items()
            }
            for ring in circles(trees, known):
                print(f"{folder.resolve().name}: {', '.join(ring)}")


if __name__ == "__main__":
    main()
