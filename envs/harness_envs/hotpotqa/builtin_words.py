"""Words and choices that all built-in pages are written with."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import cache
from typing import NamedTuple

from harness_envs.hotpotqa.builtin_facts import Entity, entities, number, of_kind, year

#: How works of a form come about.
MAKING = {
    "painting": "painted",
    "woodblock print": "made",
    "engraving": "made",
    "sculpture": "made",
    "film": "directed",
    "novel": "written",
    "novel in verse": "written",
    "novella": "written",
    "short story": "written",
    "play": "written",
    "poem": "written",
    "fairy tale": "written",
    "treatise": "written",
    "memoir": "written",
    "handbook": "written",
}
PLURAL = frozenset(
    {
        "Incompleteness theorems",
        "Logarithms",
        "Maxwell's equations",
        "Quaternions",
        "Transposons",
        "X-rays",
    }
)


class Said(NamedTuple):
    """A sentence and the facts (columns of the entity's table) that it tells."""

    text: str
    facts: tuple[str, ...] = ()


def making(work: Entity) -> str:
    """The participle for how a work came about: written, composed, painted, made, directed."""
    form = work.row["form"]
    if form in MAKING:
        return MAKING[form]
    bookish = ("book", "collection of", "cycle of stories")
    return "written" if any(word in form for word in bookish) else "composed"


def a(noun: str) -> str:
    """``"opera"`` -> ``"an opera"``; "university" begins with a consonant's sound."""
    return f"an {noun}" if noun[0].lower() in "aeio" else f"a {noun}"


def the(entity: Entity) -> str:
    """Its name as running text has it: ``"the Louvre"``, ``"Harvard University"``."""
    if entity.kind in ("rivers", "battles") or entity.name.startswith("Isle of"):
        return f"the {entity.name}"
    if entity.kind == "countries":
        return in_country(entity.title)
    article = entity.row.get("article")
    return f"{article} {entity.name}" if article else entity.name


def the_title(title: str) -> str:
    return the(entities()[title]) if title in entities() else title


def in_country(title: str) -> str:
    """A country as running text has it after "in" or "of": ``"the Netherlands"``."""
    plural = title in ("Netherlands", "United States", "Czech Republic")
    return f"the {title}" if plural else title


def capital(text: str) -> str:
    return text[0].upper() + text[1:]


def described(work: Entity) -> str:
    """``"the opera Carmen"``."""
    form = work.row["form"]
    return f"the {form} {work.name}"


def listed(parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def others_of(options: Sequence[Entity], entity: Entity, count: int, *key: str) -> list[Entity]:
    """Some of the others, chosen by the title."""
    rest = [o for o in options if o.title != entity.title]
    first = number(entity.title, *key)
    return [rest[(first + i) % len(rest)] for i in range(min(count, len(rest)))]


@cache
def _by(kind: str, column: str) -> Mapping[str, list[Entity]]:
    found: defaultdict[str, list[Entity]] = defaultdict(list)
    for entity in of_kind(kind):
        found[entity.row[column]].append(entity)
    return found


def alike(kind: str, column: str, value: str) -> Sequence[Entity]:
    """Entities of a kind that have this value in a column; none where it is not known."""
    return _by(kind, column).get(value, ()) if value else ()


def same_century(
    entity: Entity, options: Sequence[Entity], column: str = "year"
) -> Sequence[Entity]:
    def century(of: Entity) -> int:
        return (year(of, column) - 1) // 100 if of.row[column] else -1

    return [o for o in options if entity.row[column] and century(o) == century(entity)]
