"""The digest of the sources that a step function rests on, found without importing them."""

import ast
import hashlib
import importlib.machinery
import importlib.util
from functools import cache
from pathlib import Path

from sweeps.errors import SweepError


@cache
def source_digest(function: str) -> str:
    """SHA-256 over the module of "package.module:function" and all that it imports, at any remove, of the same
    top-level package. It is computed once a process. Raises SweepError where the module cannot be found."""
    digest = hashlib.sha256()
    for name, path in sorted(modules_behind(function.partition(":")[0]).items()):
        digest.update(f"{name} {hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return digest.hexdigest()


def modules_behind(module: str) -> dict[str, Path]:
    """The module and those of its top-level package that it imports, at any remove: name -> source file."""
    top = module.partition(".")[0]
    try:
        spec = importlib.util.find_spec(top)  # of a top-level name: this finds, and runs nothing
    except (ImportError, ValueError) as error:
        raise SweepError(f"module {module!r}: {error}") from error
    if spec is None:
        raise SweepError(f"module {module!r}: there is no module {top!r} that can be imported here")
    package = _Package(top, spec)
    if package.path_of(module) is None:
        raise SweepError(f"module {module!r}: not found in {top!r}")
    found: dict[str, Path] = {}
    waiting = [module]
    while waiting:
        name = waiting.pop()
        if name in found:
            continue
        path = package.path_of(name)
        if path is None:  # not a module: a name imported from one
            continue
        found[name] = path
        waiting += package.imported_by(name, path)
        if "." in name:
            waiting.append(name.rpartition(".")[0])  # importing a module runs the packages around it
    return found


class _Package:
    """A top-level package (or lone module) on disk."""

    def __init__(self, top: str, spec: importlib.machinery.ModuleSpec) -> None:
        self._top = top
        self._roots = [Path(root) for root in spec.submodule_search_locations or ()]
        self._origin = Path(spec.origin) if spec.origin and spec.has_location else None

    def path_of(self, name: str) -> Path | None:
        if name == self._top and self._origin is not None:
            return self._origin
        parts = name.split(".")[1:]
        for root in self._roots:
            base = root.joinpath(*parts)
            for path in (base / "__init__.py", base.with_name(base.name + ".py") if parts else base):
                if path.is_file():
                    return path
        return None

    def imported_by(self, name: str, path: Path) -> list[str]:
        around = name if path.name == "__init__.py" else name.rpartition(".")[0]
        names: list[str] = []
        for node in ast.walk(ast.parse(path.read_bytes(), filename=str(path))):
            if isinstance(node, ast.Import):
                names += [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                base = self._absolute(node, around)
                names += [base, *(f"{base}.{alias.name}" for alias in node.names)]
        return [found for found in names if found.partition(".")[0] == self._top]

    @staticmethod
    def _absolute(node: ast.ImportFrom, around: str) -> str:
        if not node.level:
            return node.module or ""
        parts = around.split(".")
        base = ".".join(parts[: len(parts) - node.level + 1])
        return f"{base}.{node.module}" if node.module else base
