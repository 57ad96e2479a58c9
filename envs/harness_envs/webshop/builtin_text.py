"""What the built-in shop says about a product: title, bullets, description, instruction.

Attributes are the only facts; everything here is a way to say one. Which page says which attribute
is decided in ``builtin``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from random import Random

from harness_envs.webshop.builtin_words import (
    ADJ,
    ATTRIBUTES,
    EASY,
    FOR,
    NOT_NOUNS,
    WITH,
    Department,
    Kind,
)

_OPENERS = (
    "Find me",
    "Find me",
    "I need",
    "I want",
    "Show me",
    "I am looking for",
    "Please find me",
    "Help me find",
    "I would like",
)
_BULLETS = {
    ADJ: ("{A}: {claim}.", "{A}, {claim}.", "It is {a}: {claim}.", "Truly {a}, {claim}."),
    EASY: ("Easy to {v}: {claim}.", "It is easy to {v}, {claim}.", "So easy to {v}: {claim}."),
    WITH: ("With {a}: {claim}.", "{A}: {claim}.", "It has {a}: {claim}.", "{A}, {claim}."),
    FOR: ("For {a}: {claim}.", "Made for {a}: {claim}.", "Great for {a}, {claim}."),
}
_INTROS = (
    "{B} makes {query} that people keep.",
    "Meet the new {k} by {B}.",
    "{B} has made {query} for thirty years.",
    "The {k} by {B} will not let you down.",
    "You can tell {B} by the first look.",
    "There are many {query}, and then there is {B}.",
    "A {B} classic, now better than before.",
)
_SENTENCES = {
    ADJ: (
        "It is {a}.",
        "Customers praise that it is {a}.",
        "You get a {a} product.",
        "Really {a}.",
    ),
    EASY: ("It is easy to {v}.", "Customers find it easy to {v}.", "Nothing is as easy to {v}."),
    WITH: ("It comes with {a}.", "You get {a} at a fair price.", "Think of {a}."),
    FOR: ("It is made for {a}.", "Our choice for {a}.", "You can use it for {a}."),
}


def _forms(attribute: str) -> dict[str, str]:
    return {
        "a": attribute,
        "A": attribute[0].upper() + attribute[1:],
        "v": attribute.removeprefix("easy "),
        "claim": ATTRIBUTES[attribute][1],
    }


def role(attribute: str) -> str:
    """``ADJ``, ``EASY``, ``WITH`` or ``FOR``."""
    return ATTRIBUTES[attribute][0]


def _of(roles: Iterable[str], attributes: Sequence[str]) -> list[str]:
    return [a for a in attributes if role(a) in roles]


def title(
    department: Department, kind: Kind, brand: str, attributes: Sequence[str], rng: Random
) -> str:
    """``Nordhus Easy Clean Coffee Table with Glass Top, Rustic Look``: 4 to 12 words."""
    front = " ".join(a.title() for a in _of((ADJ, EASY), attributes))
    having = " and ".join(a.title() for a in _of((WITH,), attributes))
    use = " and ".join(a.title() for a in _of((FOR,), attributes))
    tail = (f" with {having}" if having else "") + (f" for {use}" if use else "")
    extra = rng.choice(department.extras)
    if tail and " " in extra and extra.split()[0] in ("for", "with"):
        extra = rng.choice(department.extras[:4])
    joint = " " if extra.startswith(("for ", "with ")) else ", "
    shape = rng.randrange(4)
    if shape == 0:
        return f"{kind.title} by {brand}{', ' + front if front else ''}{tail}"
    if shape == 1:
        return f"{brand} {kind.title}{tail}{', ' + front if front else ''}{joint}{extra}"
    return " ".join(f"{brand} {front} {kind.title}{tail}{joint}{extra}".split())


def bullets(
    department: Department, attributes: Sequence[str], fillers: int, rng: Random
) -> list[str]:
    """One bullet an attribute, in the given order, then some that say nothing asked for."""
    said = [rng.choice(_BULLETS[role(a)]).format(**_forms(a)) for a in attributes]
    return said + [f"{text}." for text in rng.sample(department.fillers, fillers)]


def description(
    department: Department, kind: Kind, brand: str, attributes: Sequence[str], rng: Random
) -> str:
    """Two or three sentences that repeat one or two attributes."""
    lines = [rng.choice(_INTROS).format(B=brand, k=kind.title.lower(), query=kind.query)]
    lines += [rng.choice(_SENTENCES[role(a)]).format(**_forms(a)) for a in attributes]
    if len(lines) < 3 and rng.random() < 0.5:
        lines.append(rng.choice(department.fillers) + ".")
    return " ".join(lines)


def instruction(kind: Kind, attributes: Sequence[str], rng: Random) -> str:
    """What a shopper asks for, without options and price, which the goal adds."""
    opener = rng.choice(_OPENERS)
    front, easy = _of((ADJ,), attributes), _of((EASY,), attributes)
    having, use = _of((WITH,), attributes), _of((FOR,), attributes)
    wish = ""
    if (front or easy) and rng.random() < 0.3:
        said = [*front, *(f"easy to {_forms(a)['v']}" for a in easy)]
        wish = " that are " + " and ".join(said)
        if having or use:
            wish += ","
        front, easy = [], []
    text = f"{opener} " + ", ".join([*front, *easy])
    text = f"{text.strip()} {kind.query}{wish}"
    if having:
        text += " with " + ", ".join(having)
    if use:
        text += " for " + ", ".join(use)
    return text


def title_nouns(text: str) -> list[str]:
    """Lower-cased nouns and names of a title, in order, with repeats."""
    words = re.findall(r"[a-z]+", text.lower().replace("'s", ""))
    return [w for w in words if w not in NOT_NOUNS and w not in ("a", "and", "by")]
