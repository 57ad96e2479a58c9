"""Pages and questions that need no download: true facts, told and asked in words of this project.

    >>> questions()[0].split
    'train'

Everything follows from the tables of facts: the same in any process. No pair of entities that a dev
or valid question is about occurs in a train question, and some entities occur in none at all.
"""

from __future__ import annotations

from collections import defaultdict
from functools import cache

from harness_envs.hotpotqa.builtin_bridges import Draft, bridges
from harness_envs.hotpotqa.builtin_comparisons import comparisons
from harness_envs.hotpotqa.builtin_facts import VERSION, entities, number, shuffled
from harness_envs.hotpotqa.builtin_pages import written
from harness_envs.hotpotqa.records import Page, Question

__all__ = ["SPLITS", "VERSION", "drafts", "pages", "questions"]

SPLITS = ("train", "dev", "valid")
_SIZES = {"dev": 200, "valid": 300}
#: Per cent of the pairs, and of the entities with all their pairs, that are kept for a split.
_PAIRS = {"valid": 5, "dev": 4}
_ENTITIES = {"valid": 3, "dev": 2}
#: Too few, and met by too many questions, to be kept from train.
_EVERYWHERE = ("countries", "cities")


@cache
def pages() -> tuple[Page, ...]:
    """Every page, a paragraph each."""
    found = []
    for title, page in written().items():
        aliases = page.entity.row.get("aliases", "")
        found.append(Page(title, (page.text,), tuple(filter(None, aliases.split(";")))))
    return tuple(found)


@cache
def questions() -> tuple[Question, ...]:
    """Every question, split by split; ids are ``<split>/b<place in its split>``."""
    by_split: defaultdict[str, list[Draft]] = defaultdict(list)
    for draft in drafts():
        split = _split(draft.pair)
        if split is not None:
            by_split[split].append(draft)
    found = []
    for split in SPLITS:
        chosen = shuffled(by_split[split], "questions", split)[: _SIZES.get(split)]
        found += [_question(draft, split, index) for index, draft in enumerate(chosen)]
    return tuple(found)


def drafts() -> list[Draft]:
    """Every question once; no two with the same words."""
    unique: dict[str, Draft] = {}
    for draft in (*bridges(), *comparisons()):
        unique.setdefault(draft.text, draft)
    return list(unique.values())


def _question(draft: Draft, split: str, index: int) -> Question:
    supporting = tuple((title, written()[title].where[fact]) for title, fact in draft.facts)
    hidden = sum(sentence >= 5 for _, sentence in supporting)
    return Question(
        id=f"{split}/b{index}",
        split=split,
        question=draft.text,
        answer=draft.answer,
        type=draft.type,
        level=("easy", "medium", "hard")[hidden],
        supporting=supporting,
        group=" + ".join(draft.pair),
    )


@cache
def _home(title: str) -> str | None:
    """The split that alone asks about an entity; None: any may."""
    if entities()[title].kind in _EVERYWHERE:
        return None
    return _draw(_ENTITIES, "entity", title)


def _split(pair: tuple[str, ...]) -> str | None:
    """Where a pair belongs; None: nowhere, its entities are kept for different splits."""
    homes = {home for home in map(_home, pair) if home}
    if len(homes) > 1:
        return None
    return homes.pop() if homes else _draw(_PAIRS, "pair", *pair) or "train"


def _draw(shares: dict[str, int], *key: str) -> str | None:
    drawn = number(*key) % 100
    for split, share in shares.items():
        if drawn < share:
            return split
        drawn -= share
    return None
