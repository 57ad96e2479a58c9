"""The built-in pages: sentences made from the facts, by templates.

A page opens with what the thing is; the other facts follow in an order of its own, so that some lie
beyond the five sentences that a search shows. Wording and order follow from the title.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from itertools import pairwise
from typing import NamedTuple

from harness_envs.hotpotqa.builtin_facts import Entity, entities, of_kind, shuffled
from harness_envs.hotpotqa.builtin_people import person
from harness_envs.hotpotqa.builtin_places import city, country, island, lake, mountain, river
from harness_envs.hotpotqa.builtin_things import (
    battle,
    building,
    element,
    institution,
    invention,
    moon,
)
from harness_envs.hotpotqa.builtin_words import Said, capital, listed, others_of, the
from harness_envs.hotpotqa.builtin_works import work

#: Sentences a page has at most (what is least of its own is left out first), and about at least.
MOST = 8
LEAST = 6


_WRITERS: Mapping[str, Callable[[Entity], Iterator[Said]]] = {
    "people": person,
    "works": work,
    "countries": country,
    "cities": city,
    "rivers": river,
    "mountains": mountain,
    "lakes": lake,
    "islands": island,
    "elements": element,
    "institutions": institution,
    "buildings": building,
    "battles": battle,
    "inventions": invention,
    "moons": moon,
}


class Written(NamedTuple):
    """A page: its sentences, and for each fact the index of the one that tells it."""

    entity: Entity
    sentences: tuple[str, ...]
    where: Mapping[str, int]

    @property
    def text(self) -> str:
        return " ".join(self.sentences)


@cache
def written() -> Mapping[str, Written]:
    """Every page by its title."""
    return {title: _write(entity) for title, entity in entities().items()}


def _write(entity: Entity) -> Written:
    said = [s for s in _WRITERS[entity.kind](entity) if s.text]
    facts = [s for s in said[1:] if s.facts]
    extra = [s for s in said[1:] if not s.facts]
    kept = [*facts, *extra][: MOST - 1]
    if len(kept) < LEAST - 1:
        named = listed([the(e) for e in others_of(of_kind(entity.kind), entity, 3, "see also")])
        kept.append(Said(f"See also {named}."))
    order = [said[0], *shuffled(kept, "order", entity.title)]
    for place in range(1, len(order)):
        # "The opera is based on ..." must not follow a sentence about another opera.
        while not _can_name(order[place], entity) and not order[place - 1].facts:
            order[place - 1 : place + 1] = order[place], order[place - 1]
            place -= 1
    where: dict[str, int] = {}
    for index, sentence in enumerate(order):
        for fact in sentence.facts:
            where.setdefault(fact, index)
    texts = [order[0].text]
    for before, sentence in pairwise(order):
        texts.append(sentence.text if before.facts else _named(sentence, entity))
    return Written(entity, tuple(texts), where)


_PRONOUN = re.compile(r"^((?:In \d+ |Born .*, )?)(he|she|it|they|its)\b", re.IGNORECASE)


def _can_name(said: Said, entity: Entity) -> bool:
    """Whether a sentence says by itself what it is about, or can be made to."""
    return not said.facts or entity.name in said.text or bool(_PRONOUN.match(said.text))


def _named(said: Said, entity: Entity) -> str:
    """The sentence with the entity's name for the pronoun it begins with."""

    def name(found: re.Match[str]) -> str:
        whose = "'s" if found[2].casefold() == "its" else ""
        return f"{found[1]}{the(entity)}{whose}"

    return capital(_PRONOUN.sub(name, said.text))
