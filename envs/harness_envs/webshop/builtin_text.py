"""What the built-in shop says about a product: title, bullets, description, instruction.

Attributes are the only facts; everything here is a way to say one. Which page says which attribute
is decided in ``builtin``.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from random import Random

from harness_envs.webshop.builtin_words import Attribute, Department, Kind, Role, shop

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
# {a}: the attribute, {v}: what something is easy to, {claim}: what is said about it.
_BULLETS: dict[Role, tuple[str, ...]] = {
    "adj": ("{A}: {claim}.", "{A}, {claim}.", "It is {a}: {claim}.", "Truly {a}, {claim}."),
    "easy": ("Easy to {v}: {claim}.", "It is easy to {v}, {claim}.", "So easy to {v}: {claim}."),
    "with": ("With {a}: {claim}.", "{A}: {claim}.", "It has {a}: {claim}.", "{A}, {claim}."),
    "for": ("For {a}: {claim}.", "Made for {a}: {claim}.", "Great for {a}, {claim}."),
}
_SENTENCES: dict[Role, tuple[str, ...]] = {
    "adj": ("It is {a}.", "Customers praise that it is {a}.", "Really {a}.", "It is truly {a}."),
    "easy": ("It is easy to {v}.", "Customers find it easy to {v}.", "Nothing is as easy to {v}."),
    "with": ("It comes with {a}.", "You get {a} at a fair price.", "Customers praise its {a}."),
    "for": ("It is made for {a}.", "Our choice for {a}.", "You can use it for {a}."),
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


def title(
    department: Department, kind: Kind, brand: str, attributes: Sequence[Attribute], rng: Random
) -> str:
    """``Nordhus Easy Clean Coffee Table with Glass Top, Rustic Look``: 3 to 12 words."""
    front = " ".join(a.name.title() for a in attributes if a.role in ("adj", "easy"))
    having = " and ".join(a.name.title() for a in attributes if a.role == "with")
    use = " and ".join(a.name.title() for a in attributes if a.role == "for")
    tail = (f" with {having}" if having else "") + (f" for {use}" if use else "")
    joint, extra = "", ""
    if rng.random() < 0.4:
        # "with Glass Top with Cable" would be one tail too many.
        extra = rng.choice([e for e in department.extras if not (tail and e[0].islower())])
        joint = " " if extra[0].islower() else ", "
    shape = rng.randrange(4)
    if shape == 0:
        return f"{kind.title} by {brand}{', ' + front if front else ''}{tail}"
    if shape == 1:
        return f"{brand} {kind.title}{tail}{', ' + front if front else ''}{joint}{extra}"
    return " ".join(f"{brand} {front} {kind.title}{tail}{joint}{extra}".split())


def bullets(
    department: Department, attributes: Sequence[Attribute], fillers: int, rng: Random
) -> list[str]:
    """One bullet an attribute, in the given order, then some that say nothing asked for."""
    said = [rng.choice(_BULLETS[a.role]).format(**_forms(a)) for a in attributes]
    return said + [f"{text}." for text in rng.sample(department.fillers, fillers)]


def description(
    department: Department, kind: Kind, brand: str, attributes: Sequence[Attribute], rng: Random
) -> str:
    """Two or three sentences that repeat one or two attributes."""
    lines = [rng.choice(_INTROS).format(B=brand, k=kind.title.lower(), query=kind.query)]
    lines += [rng.choice(_SENTENCES[a.role]).format(**_forms(a)) for a in attributes]
    if len(lines) < 3 and rng.random() < 0.5:
        lines.append(rng.choice(department.fillers) + ".")
    return " ".join(lines)


def instruction(kind: Kind, attributes: Sequence[Attribute], rng: Random) -> str:
    """What a shopper asks for, without options and price, which the goal adds."""
    front = [a.name for a in attributes if a.role in ("adj", "easy")]
    having = ", ".join(a.name for a in attributes if a.role == "with")
    use = ", ".join(a.name for a in attributes if a.role == "for")
    wish = ""
    if front and rng.random() < 0.3:
        said = (f.replace("easy ", "easy to ") for f in front)
        wish = f" that are {' and '.join(said)}{',' if having or use else ''}"
        front = []
    text = f"{rng.choice(_OPENERS)} {', '.join(front)}".strip()
    tail = (f" with {having}" if having else "") + (f" for {use}" if use else "")
    return f"{text} {kind.query}{wish}{tail}"


def title_nouns(text: str) -> list[str]:
    """Lower-cased nouns and names of a title, in order, with repeats."""
    words = re.findall(r"[a-z]+", text.lower().replace("'s", ""))
    return [word for word in words if word not in shop().not_nouns]


def _forms(attribute: Attribute) -> dict[str, str]:
    name = attribute.name
    return {
        "a": name,
        "A": name[0].upper() + name[1:],
        "v": name.removeprefix("easy "),
        "claim": attribute.claim,
    }
