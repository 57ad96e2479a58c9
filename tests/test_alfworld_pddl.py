"""Goals: the compiled test against a plain reading of the formula, on random formulas."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest
from harness_envs.alfworld.pddl import atoms, compile_goal, parse_problem
from hypothesis import example, given, settings
from hypothesis import strategies as st

from harness.errors import DataError

OBJECTS = {"object": ("a", "b", "c"), "place": ("p", "q")}
VARIABLES = ["?x", "?y", "?z"]
TERMS = st.sampled_from([*VARIABLES, "a", "p"])
ATOMS = st.one_of(
    st.tuples(st.sampled_from(["red", "hot"]), TERMS),
    st.tuples(st.sampled_from(["in", "likes"]), TERMS, TERMS),
    st.tuples(st.just("="), TERMS, TERMS),
)
TYPED = st.lists(
    st.tuples(st.sampled_from(VARIABLES), st.sampled_from(list(OBJECTS))),
    min_size=1,
    max_size=2,
    unique_by=lambda v: v[0],
).map(tuple)
FORMULAS = st.recursive(
    ATOMS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3).map(lambda parts: ("and", *parts)),
        st.lists(inner, max_size=3).map(lambda parts: ("or", *parts)),
        st.tuples(st.just("not"), inner),
        st.tuples(st.just("imply"), inner, inner),
        st.tuples(st.sampled_from(["exists", "forall"]), TYPED, inner),
    ),
    max_leaves=8,
)
EVERYTHING = [o for of in OBJECTS.values() for o in of]
UNARY = st.sets(st.sampled_from([(o,) for o in EVERYTHING]))
BINARY = st.sets(st.sampled_from(list(product(EVERYTHING, EVERYTHING))), max_size=8)


def plain(formula: Any, facts: dict[str, set[Any]], b: dict[str, str]) -> bool:
    head, *rest = formula
    match head:
        case "and":
            return all(plain(part, facts, b) for part in rest)
        case "or":
            return any(plain(part, facts, b) for part in rest)
        case "not":
            return not plain(rest[0], facts, b)
        case "imply":
            return not plain(rest[0], facts, b) or plain(rest[1], facts, b)
        case "exists" | "forall":
            names = [name for name, _ in rest[0]]
            every = product(*(OBJECTS[kind] for _, kind in rest[0]))
            tests = (
                plain(rest[1], facts, {**b, **dict(zip(names, v, strict=True))}) for v in every
            )
            return any(tests) if head == "exists" else all(tests)
        case "=":
            return b.get(rest[0], rest[0]) == b.get(rest[1], rest[1])
    return tuple(b.get(t, t) for t in rest) in facts[head]


def closed(formula: Any) -> Any:
    """Every variable bound at the outside, so that none is left free."""
    return ("exists", (("?x", "object"),), ("forall", (("?y", "place"),), (
        "exists", (("?z", "object"),), formula)))  # fmt: skip


def one_inside_another() -> Any:
    """A variable that an inner quantifier binds anew, and the outer one again behind it."""
    x = (("?x", "object"),)
    return ("exists", x, ("and", ("exists", x, ("red", "?x")), ("likes", "?x", "?x")))


@settings(deadline=None, max_examples=400)
@given(FORMULAS, UNARY, UNARY, BINARY, BINARY)
@example(one_inside_another(), {("a",)}, set(), set(), {("b", "b")})
def test_a_compiled_goal_means_what_it_says(
    formula: Any, red: set[Any], hot: set[Any], inside: set[Any], likes: set[Any]
) -> None:
    goal = closed(formula)
    facts = {"red": red, "likes": likes, "hot": hot, "in": inside}
    holds = compile_goal(
        goal,
        OBJECTS,
        {"red": red, "likes": likes},
        {"hot": lambda o: (o,) in hot, "in": lambda o, p: (o, p) in inside},
    )
    assert holds() == plain(goal, facts, {})
    hot ^= {("a",), ("p",)}
    inside ^= {("a", "p")}
    assert holds() == plain(goal, facts, {})


def written(formula: Any) -> str:
    head, *rest = formula
    if head in ("exists", "forall"):
        variables = " ".join(f"{name} - {kind}" for name, kind in rest[0])
        return f"({head} ({variables}) {written(rest[1])})"
    if head in ("and", "or", "not", "imply"):
        return f"({head} {' '.join(map(written, rest))})"
    return f"({' '.join(formula)})"


@settings(deadline=None)
@given(FORMULAS)
def test_written_goals_are_read_back(formula: Any) -> None:
    text = (
        f"(define (problem p)\n(:objects a b - Object) ; note\n(:init)\n(:goal {written(formula)}))"
    )
    problem = parse_problem(text, "here")
    assert problem.goal == formula
    assert problem.objects["object"] == ("a", "b")
    assert all(atom[0] in ("red", "hot", "in", "likes", "=") for atom in atoms(problem.goal))


@given(st.text(alphabet="() :goalinitobjects?-x\n", max_size=60))
def test_any_other_text_is_a_data_error_or_a_problem(text: str) -> None:
    error = None
    try:
        parse_problem("(:objects a)(:init (p a))(:goal " + text, "file 7")
    except DataError as raised:
        error = raised
    assert error is None or "file 7" in str(error)


def test_objects_without_a_type_are_objects_and_predicates_have_their_places() -> None:
    text = "(:objects a - o b)(:init (opened a))(:goal (opened b))"
    assert parse_problem(text, "file").objects == {"o": ("a",), "object": ("b",)}
    for wrong in ("(opened a", "(opened b"):
        with pytest.raises(DataError, match="names 2 things instead of 1"):
            parse_problem(text.replace(wrong, f"{wrong} c"), "file")


@pytest.mark.parametrize("section", ["objects", "init", "goal"])
def test_an_absent_section_is_named(section: str) -> None:
    text = "(:objects a - o)(:init (p a))(:goal (p a))".replace(f":{section}", "x")
    with pytest.raises(DataError, match=section):
        parse_problem(text, "file")
