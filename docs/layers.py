"""Draw the layers of the package, from the code's own imports, into CONTRIBUTING.md.

python docs/layers.py            # write
python docs/layers.py --check    # complain if the file is not up to date
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent / "src" / "barm"
PAGE = ROOT.parent.parent / "CONTRIBUTING.md"
BEGIN, END = "<!-- layers: written by docs/layers.py -->", "<!-- end of layers -->"
LAYERS = (  # from the bottom; a package imports from the layers below its own alone
    ("errors",),
    ("catalogue", "escaping", "processes", "reading", "silence", "words"),
    ("labels", "batch", "writing"),
    ("ops", "metrics"),
    ("losses", "models", "data"),
    ("methods",),
    ("engine",),
    ("config", "grid_file", "report"),
    ("settings", "weights"),
    ("predict",),
    ("api",),
    ("app", "bench", "demo", "extension", "grid"),
    ("jobs",),
    ("cli",),
)


def modules(root: Path = ROOT) -> dict[str, Path]:
    """Files by the names of their modules, ``barm`` itself left out, which is the public interface over all."""
    names = {file: ".".join(file.relative_to(root.parent).with_suffix("").parts) for file in root.rglob("*.py")}
    return {n.removesuffix(".__init__"): file for file, n in names.items() if n != f"{root.name}.__init__"}


def imported(file: Path, known: dict[str, Path]) -> Iterator[str]:
    """Modules that a file imports, in functions and for type checkers too."""
    for node in ast.walk(ast.parse(file.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            found = [f"{node.module}.{alias.name}" for alias in node.names]
            found = [name if name in known else str(node.module) for name in found]
        else:
            continue
        yield from (name for name in found if name in known)


def module_graph(root: Path = ROOT) -> dict[str, set[str]]:
    """Which modules every module imports."""
    known = modules(root)
    return {name: set(imported(file, known)) - {name} for name, file in known.items()}


def package_graph(graph: dict[str, set[str]], depth: int = 1) -> dict[str, set[str]]:
    """The same for the packages and modules of the first level, or down to a deeper one."""
    packages: dict[str, set[str]] = {}
    for name, used in graph.items():
        own, *others = (".".join(n.split(".")[1 : depth + 1]) for n in (name, *used))
        packages.setdefault(own, set()).update(other for other in others if other != own)
    return packages


def cycle(graph: dict[str, set[str]]) -> list[str]:
    """The names along one cycle, its first one again at the end; none where there is no cycle."""
    done: set[str] = set()
    path: list[str] = []

    def visit(name: str) -> list[str]:
        if name in path:
            return [*path[path.index(name) :], name]
        if name in done:
            return []
        path.append(name)
        for other in sorted(graph[name]):
            if found := visit(other):
                return found
        done.add(path.pop())
        return []

    return next((found for name in sorted(graph) if (found := visit(name))), [])


def faults(packages: dict[str, set[str]]) -> list[str]:
    """What contradicts `LAYERS`, a line each."""
    place = {name: number for number, layer in enumerate(LAYERS) for name in layer}
    lines = [f"'{name}' is in no layer: add it to LAYERS in docs/layers.py" for name in packages if name not in place]
    lines += [f"'{name}' is in LAYERS of docs/layers.py but not in the package" for name in place.keys() - packages]
    for name in sorted(packages.keys() & place.keys()):
        above = sorted(other for other in packages[name] if place.get(other, -1) >= place[name])
        lines += [f"'{name}' imports '{other}', which is not in a lower layer" for other in above]
    return lines


def drawing(packages: dict[str, set[str]]) -> str:
    """The layers from the top, each package with those that it imports and that nothing it imports brings already."""
    reached: dict[str, set[str]] = {}
    for name in (n for layer in LAYERS for n in layer):
        reached[name] = set().union(packages[name], *(reached[other] for other in packages[name]))
    lines = []
    for layer in reversed(LAYERS):
        for name in layer:
            used = packages[name]
            direct = [o for o in used if not any(o in reached[other] for other in used)]
            order = [o for below in reversed(LAYERS) for o in below if o in direct]
            lines.append(f"{name:<10} -> {', '.join(order)}" if order else name)
        lines.append("-" * 40)
    return "\n".join(lines[:-1])


def block() -> str:
    """What stands between the markers in CONTRIBUTING.md."""
    return f"{BEGIN}\n```text\n{drawing(package_graph(module_graph()))}\n```\n{END}"


def page() -> str:
    """CONTRIBUTING.md with the block as the code has it now."""
    return re.sub(re.escape(BEGIN) + ".*?" + re.escape(END), lambda _: block(), PAGE.read_text("utf-8"), flags=re.S)


def main() -> None:
    """Write the block, or complain if it is not up to date."""
    text = page()
    if "--check" in sys.argv[1:]:
        if text != PAGE.read_text("utf-8"):
            raise SystemExit(f"{PAGE.name} shows other layers than the code has: run python docs/layers.py")
        return
    PAGE.write_text(text, "utf-8")


if __name__ == "__main__":
    main()
