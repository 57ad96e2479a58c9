"""Reads a PDDL problem and compiles its goal into a test on a changing state.

Names are lower-cased, as Fast Downward does. Only what ALFRED problems use is understood: typed
objects, positive facts, numeric initial values (skipped), and goals built from ``and``, ``or``,
``not``, ``imply``, ``exists``, ``forall`` and ``=``.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain
from typing import Any, NamedTuple

from harness.errors import DataError

Fact = tuple[str, ...]
#: A goal: ("and", part, ...), ("exists", ((var, type), ...), part) ... or an atom (pred, arg, ...).
Formula = tuple[Any, ...]
Bindings = dict[str, str]
Test = Callable[..., bool]

_SECTION = re.compile(r"\(\s*:(\w+)")
_FACT = re.compile(r"\(([^()]+)\)")
_COMMENT = re.compile(r";[^\n]*")
_TOKEN = re.compile(r"[()]|[^\s()]+")
#: How many places a predicate has, of those that decide what a game does.
_PLACES = dict.fromkeys((
    "receptacleatlocation", "receptacletype", "objecttype", "cancontain", "inreceptacleobject",
    "atlocation", "holds", "inreceptacle", "objectatlocation",
), 2) | dict.fromkeys((
    "openable", "pickupable", "cleanable", "heatable", "coolable", "toggleable", "sliceable",
    "isreceptacleobject", "holdsany", "opened", "ishot", "iscool", "isclean", "issliced",
    "istoggled", "ison",
), 1)  # fmt: skip


class Problem(NamedTuple):
    """A problem's objects by type, its facts by predicate (arguments only), and its goal."""

    objects: dict[str, tuple[str, ...]]
    facts: dict[str, list[Fact]]
    goal: Formula

    def having(self, predicate: str) -> set[str]:
        """Objects that a one-place predicate holds of at the start (a new set)."""
        return {fact[0] for fact in self.facts.get(predicate, ())}


def parse_problem(text: str, where: str) -> Problem:
    """Parse a PDDL problem; ``where`` names its origin in errors. Raises DataError."""
    text = text.lower()
    if ";" in text:
        text = _COMMENT.sub("", text)
    sections = {m[1]: m for m in _SECTION.finditer(text)}
    for name in ("objects", "init", "goal"):
        if name not in sections:
            raise DataError(
                f"{where}: field 'pddl_problem' has no '(:{name} ...)' section. "
                "The file is damaged or not an ALFWorld game; get it again."
            )
    starts = sorted(m.start() for m in sections.values())

    def body(name: str) -> str:
        match = sections[name]
        end = next((s for s in starts if s > match.start()), len(text))
        return text[match.end() : end]

    facts: dict[str, list[Fact]] = defaultdict(list)
    for found in _FACT.findall(body("init")):
        predicate, *arguments = found.split()
        if predicate != "=":
            facts[predicate].append(tuple(arguments))
    goal = _parse_goal(body("goal"), where)
    _check_places(facts, goal, where)
    return Problem(_objects(body("objects")), dict(facts), goal)


def _check_places(facts: Mapping[str, Sequence[Fact]], goal: Formula, where: str) -> None:
    told = ((name, *fact) for name in _PLACES for fact in facts.get(name, ()))
    for name, *things in chain(told, atoms(goal)):
        if len(things) != _PLACES.get(name, len(things)):
            raise DataError(
                f"{where}: field 'pddl_problem': '({' '.join([name, *things])})' names "
                f"{len(things)} things instead of {_PLACES[name]}. "
                "The file is damaged; get it again."
            )


def _objects(body: str) -> dict[str, tuple[str, ...]]:
    """``a b - type c - type2 )`` -> names by type, duplicates dropped."""
    names: dict[str, dict[str, None]] = defaultdict(dict)
    pending: list[str] = []
    tokens = iter(body.replace("(", " ").replace(")", " ").split())
    for token in tokens:
        if token == "-":
            names[next(tokens, "object")].update(dict.fromkeys(pending))
            pending = []
        else:
            pending.append(token)
    names["object"].update(dict.fromkeys(pending))
    return {kind: tuple(of_kind) for kind, of_kind in names.items()}


def _parse_goal(body: str, where: str) -> Formula:
    tokens = iter(_TOKEN.findall(body))
    try:
        return _formula(_tree(tokens, next(tokens)))
    except (StopIteration, ValueError) as error:
        raise DataError(
            f"{where}: field 'pddl_problem': the goal cannot be read ({error or 'it breaks off'}). "
            "The file is damaged; get it again."
        ) from None


def _tree(tokens: Iterator[str], token: str) -> Any:
    """The expression that begins with ``token``: a name, or a list of expressions."""
    if token != "(":
        return token
    items: list[Any] = []
    while (token := next(tokens)) != ")":
        items.append(_tree(tokens, token))
    return items


def _formula(tree: Any) -> Formula:
    if not isinstance(tree, list):
        raise ValueError(f"expected a '(' before '{tree}'")
    if not tree:
        return ("and",)
    head, *rest = tree
    if head in ("and", "or", "not", "imply"):
        if head in ("not", "imply") and len(rest) != (1 if head == "not" else 2):
            raise ValueError(f"'{head}' with {len(rest)} parts")
        return (head, *(_formula(part) for part in rest))
    if head in ("exists", "forall"):
        variables, part = rest
        return (head, _variables(variables), _formula(part))
    if any(not isinstance(argument, str) for argument in tree):
        raise ValueError(f"unknown connective '{head}'")
    return tuple(tree)


def _variables(items: Sequence[str]) -> tuple[tuple[str, str], ...]:
    typed: list[tuple[str, str]] = []
    pending: list[str] = []
    tokens = iter(items)
    for token in tokens:
        if token == "-":
            kind = next(tokens)
            typed += [(name, kind) for name in pending]
            pending = []
        else:
            pending.append(token)
    return (*typed, *((name, "object") for name in pending))


def atoms(formula: Formula) -> Iterator[Formula]:
    """Every atom in a formula, ``=`` included."""
    head = formula[0]
    if head in ("and", "or", "not", "imply"):
        for part in formula[1:]:
            yield from atoms(part)
    elif head in ("exists", "forall"):
        yield from atoms(formula[2])
    else:
        yield formula


def compile_goal(
    goal: Formula,
    objects: Mapping[str, Sequence[str]],
    facts: Mapping[str, set[Fact]],
    tests: Mapping[str, Test],
) -> Callable[[], bool]:
    """Compile ``goal`` into a function that says whether it holds now.

    ``tests`` has a callable for each predicate that actions change; any other predicate is
    constant and read from ``facts``. Quantified variables are narrowed by the constant atoms
    before play, so that a test looks at few combinations.
    """
    return _Compiler(objects, facts, tests).closed(goal)


class _Compiler:
    def __init__(
        self,
        objects: Mapping[str, Sequence[str]],
        facts: Mapping[str, set[Fact]],
        tests: Mapping[str, Test],
    ) -> None:
        self.objects = objects
        self.facts = facts
        self.tests = tests
        self.fresh = 0

    def closed(self, goal: Formula) -> Callable[[], bool]:
        test = self.compile(goal)
        return lambda: test({})

    def compile(self, formula: Formula) -> Callable[[Bindings], bool]:
        head = formula[0]
        if head == "and":
            parts = [self.compile(part) for part in formula[1:]]
            return lambda b: all(part(b) for part in parts)
        if head == "or":
            parts = [self.compile(part) for part in formula[1:]]
            return lambda b: any(part(b) for part in parts)
        if head == "not":
            inner = self.compile(formula[1])
            return lambda b: not inner(b)
        if head == "imply":
            return self.compile(("or", ("not", formula[1]), formula[2]))
        if head == "forall":
            return self.compile(("not", ("exists", formula[1], ("not", formula[2]))))
        if head == "exists":
            return self.exists(formula)
        return self.atom(formula)

    def atom(self, formula: Formula) -> Callable[[Bindings], bool]:
        predicate, *arguments = formula
        if predicate == "=":
            left, right = arguments
            return lambda b: b.get(left, left) == b.get(right, right)
        test = self.tests.get(predicate)
        if test is None:
            known = self.facts.get(predicate, set())
            return lambda b: tuple(b.get(a, a) for a in arguments) in known
        if len(arguments) == 1:
            only = arguments[0]
            return lambda b: test(b.get(only, only))
        if len(arguments) == 2:
            one, two = arguments
            return lambda b: test(b.get(one, one), b.get(two, two))
        return lambda b: test(*(b.get(a, a) for a in arguments))

    def exists(self, formula: Formula) -> Callable[[Bindings], bool]:
        variables: list[tuple[str, str]] = []
        conditions: list[Formula] = []
        self.flatten(formula, {}, variables, conditions)
        # Constant conditions first: they are cheap and cut the search early.
        conditions.sort(key=lambda c: any(atom[0] in self.tests for atom in atoms(c)))
        names = {name for name, _ in variables}
        pending = [(c, _variables_in(c), self.compile(c)) for c in conditions]
        outer = [test for _, free, test in pending if not free & names]
        bound: set[str] = set()
        levels: list[tuple[str, list[str], list[Callable[[Bindings], bool]]]] = []
        for name, kind in variables:
            bound.add(name)
            domain = list(self.objects.get(kind, ()))
            tests = []
            for condition, free, test in pending:
                if name not in free or not free & names <= bound:
                    continue
                if free == {name} and not any(a[0] in self.tests for a in atoms(condition)):
                    domain = [value for value in domain if test({name: value})]
                else:
                    tests.append(test)
            levels.append((name, domain, tests))

        def search(depth: int, b: Bindings) -> bool:
            if depth == len(levels):
                return True
            name, domain, tests = levels[depth]
            for value in domain:
                b[name] = value
                for test in tests:
                    if not test(b):
                        break
                else:
                    if search(depth + 1, b):
                        return True
            return False

        def holds(b: Bindings) -> bool:
            b = dict(b)
            return all(test(b) for test in outer) and search(0, b)

        return holds

    def flatten(
        self,
        formula: Formula,
        renamed: dict[str, str],
        variables: list[tuple[str, str]],
        conditions: list[Formula],
    ) -> None:
        """Pull nested ``exists`` and ``and`` up into one list of variables and of conditions."""
        head = formula[0]
        if head == "and":
            for part in formula[1:]:
                self.flatten(part, renamed, variables, conditions)
        elif head == "exists":
            renamed = dict(renamed)
            for name, kind in formula[1]:
                self.fresh += 1
                renamed[name] = f"{name}#{self.fresh}"
                variables.append((renamed[name], kind))
            self.flatten(formula[2], renamed, variables, conditions)
        else:
            conditions.append(_rename(formula, renamed))


def _rename(formula: Formula, names: Mapping[str, str]) -> Formula:
    head = formula[0]
    if head in ("and", "or", "not", "imply"):
        return (head, *(_rename(part, names) for part in formula[1:]))
    if head in ("exists", "forall"):
        inner = {k: v for k, v in names.items() if k not in {name for name, _ in formula[1]}}
        return (head, formula[1], _rename(formula[2], inner))
    return (head, *(names.get(argument, argument) for argument in formula[1:]))


def _variables_in(formula: Formula) -> set[str]:
    """Every variable an atom of ``formula`` names. Those bound inside keep their ``?x`` form and
    so never equal a renamed one."""
    return {a for atom in atoms(formula) for a in atom[1:] if a.startswith("?")}
