"""The messages that a user can meet, read from the syntax trees of the packages.

A message is a text given to an error, printed to standard error, logged as a warning or an error, told by a `Finding`
of `csr check` that is not good, or the `reason` for which something was left out. What is filled in becomes `…`.
Variables, parameters, conditions, concatenations and helper functions are followed; where that ends, the text is `…`
alone, which a test refuses.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import product
from pathlib import Path

BUILTIN_ERRORS = {"ValueError", "RuntimeError", "TypeError", "SystemExit", "BadParameter", "UsageError"}
NO_TEXT = {"Exit", "KeyboardInterrupt", "NotImplementedError"}
WARNINGS = {"warn", "warning", "error", "exception", "critical"}
SAME_TEXT = {"strip", "rstrip", "replace", "removeprefix", "removesuffix", "lower"}  # methods of a text
FILLED = "…"
Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Message:
    """`template`: the text with `…` where something is filled in; `file`, `line`: where it stands."""

    file: str
    line: int
    template: str
    source: str = field(compare=False)  # the expression

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.template}"

    @property
    def words(self) -> int:
        """How many words always stand there."""
        return len(re.findall(r"[^\W\d_]{2,}", self.template))


@dataclass
class Module:
    """A file's tree, and for each of its nodes the one above."""

    name: str
    file: str
    tree: ast.Module
    above: dict[ast.AST, ast.AST] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for node in ast.walk(self.tree):
            self.above.update(dict.fromkeys(ast.iter_child_nodes(node), node))

    @cached_property
    def functions(self) -> dict[str, Function]:
        return {node.name: node for node in ast.walk(self.tree) if isinstance(node, Function)}

    @cached_property
    def imports(self) -> dict[str, tuple[str, str]]:
        """Name here -> (module, name there), wherever in the file it is imported."""
        found = [node for node in ast.walk(self.tree) if isinstance(node, ast.ImportFrom) and node.module]
        return {one.asname or one.name: (str(node.module), one.name) for node in found for one in node.names}

    def scopes(self, node: ast.AST) -> Iterator[ast.AST]:
        """The functions around a node, the innermost first, then the module."""
        while node in self.above:
            node = self.above[node]
            if isinstance(node, Function | ast.Module | ast.Lambda):
                yield node


class Source:
    """All modules of some packages."""

    def __init__(self, root: Path, packages: Sequence[str]) -> None:
        files = sorted(file for package in packages for file in (root / package).rglob("*.py"))
        named = ((file, file.relative_to(root)) for file in files)
        self.modules = [
            Module(".".join(path.with_suffix("").parts).removesuffix(".__init__"), path.as_posix(), _tree(file))
            for file, path in named
        ]
        self.by_name = {module.name: module for module in self.modules}
        self.errors = self._error_classes()

    def messages(self, inside: Iterable[str] = ()) -> list[Message]:
        """All of them. `inside`: functions, as `package.module:name`, whose texts only stand inside other messages."""
        told = [(module, one) for module in self.modules for node in ast.walk(module.tree) for one in self._told(node)]
        for place in inside:
            name, _, function = place.partition(":")
            told += [(self.by_name[name], one) for one in _results(self.by_name[name].functions[function])]
        found = set[Message]().union(*(self.texts(module, one) for module, one in told))
        found = {replace(one, template=normal(one.template)) for one in found if one.template}
        return sorted(found, key=lambda one: (one.file, one.line, one.template))

    def unread(self) -> list[str]:
        """The `raise` statements of which it is not known what they raise, as `file:line: code`."""
        return [
            f"{module.file}:{node.lineno}: {ast.unparse(node)}"
            for module in self.modules
            for node in ast.walk(module.tree)
            if isinstance(node, ast.Raise) and node.exc is not None and not self._is_known(module, node.exc)
        ]

    def _is_known(self, module: Module, raised: ast.expr) -> bool:
        if isinstance(raised, ast.Name):  # raised again
            return raised.id in self.errors or any(
                isinstance(node, ast.ExceptHandler) and node.name == raised.id for node in ast.walk(module.tree)
            )
        if not isinstance(raised, ast.Call):
            return False
        name = _name(raised.func)
        if name in self.errors or name in NO_TEXT:
            return True
        there = self._function(module, raised)
        return there is not None and all(self._is_known(there[0], value) for value in _results(there[1]))

    def _error_classes(self) -> set[str]:
        classes = [
            (node.name, {_name(base) for base in node.bases})
            for module in self.modules
            for node in ast.walk(module.tree)
            if isinstance(node, ast.ClassDef)
        ]
        found = {*BUILTIN_ERRORS, "Exception"}
        while more := {name for name, bases in classes if bases & found and name not in found}:
            found |= more
        return found

    def _told(self, node: ast.AST) -> Iterator[ast.expr]:
        """The expressions of messages at this very node."""
        if isinstance(node, ast.Dict):
            keys = [key.value if isinstance(key, ast.Constant) else None for key in node.keys]
            yield from (value for key, value in zip(keys, node.values, strict=True) if key == "reason")
        if isinstance(node, ast.Assign) and "reason" in map(_name, node.targets):
            yield node.value  # mostly filled into another text
        if not isinstance(node, ast.Call) or not node.args:
            return
        name, words = _name(node.func), {word.arg: ast.unparse(word.value) for word in node.keywords}
        if name == "Finding":
            yield from node.args[2:3] if not _is_true(node.args[0]) else []
        elif (
            name in self.errors
            or (name in WARNINGS and isinstance(node.func, ast.Attribute))
            or (name == "print" and words.get("file") == "sys.stderr")
            or (name == "echo" and "err" in words)
            or ast.unparse(node.func).endswith("problems.append")
        ):
            yield node.args[0]

    def texts(self, module: Module, node: ast.expr, seen: tuple[ast.AST, ...] = ()) -> set[Message]:
        """What an expression can say; nothing where it is another error's message, which is told where it is raised."""
        if node in seen:
            return set()
        seen = (*seen, node)

        def of(one: ast.expr) -> set[Message]:
            return self.texts(module, one, seen)

        def here(*texts: str) -> set[Message]:
            return {Message(module.file, node.lineno, text, ast.unparse(node)) for text in texts}

        def joined(*parts: set[str]) -> set[Message]:
            return here(*("".join(choice) for choice in product(*parts)))

        match node:
            case ast.Constant(value=str(text)):
                return here(re.sub(r"%(?:\.\d+)?[sdfgr]", FILLED, text))
            case ast.Constant():
                return set()
            case ast.JoinedStr(values=parts):
                return joined(*({str(one.value)} if isinstance(one, ast.Constant) else {FILLED} for one in parts))
            case ast.BinOp(left=left, op=ast.Add(), right=right):
                return joined(*({one.template for one in of(side)} or {FILLED} for side in (left, right)))
            case ast.IfExp(body=one, orelse=other):
                return of(one) | of(other)
            case ast.BoolOp(values=values):
                return set[Message]().union(*map(of, values))
            case ast.NamedExpr(value=value):
                return of(value)
            case ast.Name(id=name):
                return self._named(module, node, name, seen)
            case ast.Subscript(slice=ast.Constant(value="reason")):
                return set()  # told where it is given
            case ast.Call():
                return self._called(module, node, seen)
        return here(FILLED)

    def _called(self, module: Module, node: ast.Call, seen: tuple[ast.AST, ...]) -> set[Message]:
        name = _name(node.func)
        if name in ("str", "next") and node.args:
            inner = node.args[0].elt if isinstance(node.args[0], ast.GeneratorExp) else node.args[0]
            return self.texts(module, inner, seen)
        if name in SAME_TEXT and isinstance(node.func, ast.Attribute):
            return self.texts(module, node.func.value, seen)
        there = self._function(module, node)
        if there is None:
            return _unknown(module, node)
        return set[Message]().union(*(self.texts(there[0], value, seen) for value in _results(there[1])))

    def _named(self, module: Module, node: ast.Name, name: str, seen: tuple[ast.AST, ...]) -> set[Message]:
        """What a name holds: an error that was caught (nothing), all that is assigned to it, or given for it."""
        for scope in module.scopes(node):
            if isinstance(scope, Function) and name in (names := _parameters(scope)):
                return self._given(module, scope, names.index(name), name, seen)
            values, elsewhere = [], False
            for one in ast.walk(scope):
                if isinstance(one, ast.ExceptHandler) and one.name == name:
                    return set()
                if isinstance(one, ast.For | ast.comprehension) and name in (targets := _targets(one.target)):
                    elsewhere = True
                    values += self._elements(module, one.iter, targets.index(name))
                values += self._assigned(module, one, name)
            if values or elsewhere:
                found = set[Message]().union(*(self.texts(where, value, seen) for where, value in values))
                return found or _unknown(module, node)
        where, there = module.imports.get(name, ("", ""))
        if where in self.by_name:
            far = self.by_name[where]
            given = [value for one in far.tree.body for _, value in self._assigned(far, one, there)]
            return set[Message]().union(*(self.texts(far, value, seen) for value in given)) or _unknown(module, node)
        return _unknown(module, node)

    def _given(
        self, module: Module, function: Function, place: int, name: str, seen: tuple[ast.AST, ...]
    ) -> set[Message]:
        """What calls give for a parameter; of a function whose name begins with `_`, in its own file alone."""
        method = isinstance(module.above[function], ast.ClassDef)
        found: set[Message] = set()
        for there in [module] if function.name.startswith("_") else self.modules:
            for call in (node for node in ast.walk(there.tree) if isinstance(node, ast.Call)):
                if _name(call.func) != function.name or isinstance(call.func, ast.Attribute) != method:
                    continue
                words = {word.arg: word.value for word in call.keywords}
                given = dict(enumerate(call.args)).get(place - method, words.get(name))
                found |= _unknown(there, call) if given is None else self.texts(there, given, seen)
        return found or _unknown(module, function)

    def _assigned(self, module: Module, node: ast.AST, name: str) -> list[tuple[Module, ast.expr]]:
        """What a node assigns to a name, with the file it stands in."""
        if isinstance(node, ast.AnnAssign | ast.NamedExpr) and _name(node.target) == name and node.value is not None:
            return [(module, node.value)]
        for target in node.targets if isinstance(node, ast.Assign) else []:
            if _name(target) == name:
                return [(module, node.value)]
            if name in (names := _targets(target)) and isinstance(node.value, ast.Tuple):
                return [(module, node.value.elts[names.index(name)])]
            if name in names:
                return self._elements(module, node.value, names.index(name)) or [(module, node.value)]
        return []

    def _elements(self, module: Module, node: ast.expr, place: int) -> list[tuple[Module, ast.expr]]:
        """The elements of what a function gives: one after the other, or of tuples the one at `place`."""
        if isinstance(node, ast.Call) and (there := self._function(module, node)) is not None:
            pairs = [value.elts for value in _results(there[1]) if isinstance(value, ast.Tuple)]
            return [(there[0], pair[place]) for pair in pairs if not _is_true(pair[0])]
        return []

    def _function(self, module: Module, call: ast.Call) -> tuple[Module, Function] | None:
        """The function of these packages that is called by its name."""
        if not isinstance(call.func, ast.Name):
            return None
        name = call.func.id
        if name in module.functions:
            return module, module.functions[name]
        where, there = module.imports.get(name, ("", ""))
        found = self.by_name[where].functions.get(there) if where in self.by_name else None
        return (self.by_name[where], found) if found is not None else None


def _tree(file: Path) -> ast.Module:
    return ast.parse(file.read_text("utf-8"), str(file))


def _unknown(module: Module, node: ast.expr | Function) -> set[Message]:
    return {Message(module.file, node.lineno, FILLED, ast.unparse(node))}


def normal(text: str) -> str:
    """A text as the page has it: on one line, and one `…` for what is filled in together."""
    return re.sub(r"…(\s*…)+", FILLED, re.sub(r"\s+", " ", text)).strip()


def _name(node: ast.expr) -> str:
    return node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""


def _is_true(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and node.value is True


def _parameters(function: Function) -> list[str]:
    given = function.args
    return [one.arg for one in (*given.posonlyargs, *given.args, *given.kwonlyargs)]


def _targets(node: ast.expr) -> list[str]:
    return [one.id if isinstance(one, ast.Name) else "" for one in getattr(node, "elts", [node])]


def _results(function: Function) -> list[ast.expr]:
    """What a function returns or yields."""
    nodes = [node for node in ast.walk(function) if isinstance(node, ast.Return | ast.Yield)]
    return [node.value for node in nodes if node.value is not None]
