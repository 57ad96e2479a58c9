"""What a purchase earns: the original's rule, and one without its known flaws.

Rules from ``web_agent_site/engine/goal.py`` and ``engine/normalize.py`` (princeton-nlp/WebShop at
commit 64fa2a5), text similarity from thefuzz 0.22.1, whose ``token_set_ratio`` is RapidFuzz's after
its own cleaning, rounded. Nouns come with the catalogue, so no language model runs here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Literal

import msgspec
from rapidfuzz.fuzz import token_set_ratio
from rapidfuzz.utils import default_process

from harness_envs.webshop.catalogue import Product
from harness_envs.webshop.goals import Goal

Rules = Literal["faithful", "fixed"]
RULES: tuple[Rules, ...] = ("faithful", "fixed")

#: Colours in the original's order: the first one found in a value stands for it.
_COLOURS = (
    "alabaster apricot aqua ash asphalt azure banana beige black blue blush bordeaux bronze "
    "brown burgundy camel camo caramel champagne charcoal cheetah chestnut chocolate "
    "christmas coffee cognac copper coral cranberry cream crystal dark denim eggplant "
    "elephant espresso fuchsia gold granite grape graphite grass gray green grey heather "
    "indigo ivory ivy khaki lavender lemon leopard light lilac lime magenta maroon mauve "
    "merlot midnight mint mocha multicolor mushroom mustard natural navy nude olive orange "
    "peach pewter pink plum purple rainbow red rose royal rust sand sapphire seashell silver "
    "skull slate steel stone stonewash sunflower tan taupe teal tiger turquoise violet walnut "
    "wheat white wine yellow"
)
COLOURS = tuple(_COLOURS.split(" "))
#: Similarity, in percent, above which two texts are the same.
SAME = 85
#: thefuzz drops these characters, and only these, as "not ASCII".
_LATIN_1 = {code: None for code in range(128, 256)}
_WORD = re.compile(r"[^\s,;:()|]+")


class Reward(msgspec.Struct, frozen=True):
    """A purchase's reward in [0, 1] and its parts, named as the original names them."""

    reward: float
    r_type: float
    r_att: float
    w_att: float
    query_match: bool
    category_match: bool
    title_score: float
    r_price: bool
    w_price: float
    #: None: the goal has no options.
    r_option: float | None = None
    w_option: float | None = None

    def measures(self) -> dict[str, float]:
        """All parts as numbers, without the reward itself and what does not apply."""
        parts = msgspec.structs.asdict(self)
        del parts["reward"]
        return {name: float(value) for name, value in parts.items() if value is not None}


def reward(
    bought: Product,
    options: Mapping[str, str],
    price: float,
    goal: Goal,
    target: Product,
    rules: Rules = "faithful",
) -> Reward:
    """What buying ``bought`` with ``options`` (name -> value) at ``price`` dollars earns.

    ``target`` is the product of ``goal``.
    """
    r_type, query_match, category_match, title_score = _type(bought, target)
    attributes = sum(_has_attribute(bought, attribute) for attribute in goal.attributes)
    matches = _options_faithful if rules == "faithful" else _options_fixed
    n_options = len(goal.options)
    chosen = matches(tuple(options.values()), goal) if n_options else 0
    affordable = price <= goal.price_upper
    total = len(goal.attributes) + n_options + 1
    return Reward(
        reward=(attributes + chosen + affordable) / total * r_type,
        r_type=r_type,
        r_att=attributes / len(goal.attributes),
        w_att=len(goal.attributes) / total,
        query_match=query_match,
        category_match=category_match,
        title_score=title_score,
        r_price=affordable,
        w_price=1 / total,
        r_option=chosen / n_options if n_options else None,
        w_option=n_options / total if n_options else None,
    )


def _type(bought: Product, target: Product) -> tuple[float, bool, bool, float]:
    query_match = bought.query == target.query
    category_match = len(_categories(bought) & _categories(target)) >= 2
    if target.nouns:
        title_score = len(set(bought.nouns) & set(target.nouns)) / len(target.nouns)
    else:
        title_score = 0.2
    r_type = 1.0 if query_match or category_match or title_score > 0.2 else 0.5
    if title_score < 0.1:
        r_type = 0.1
    if title_score == 0.0:
        r_type = 0.0
    return r_type, query_match, category_match, title_score


def _categories(product: Product) -> set[str]:
    return {part.strip() for part in product.product_category.split("›")}


def _has_attribute(product: Product, attribute: str) -> bool:
    return (
        any(_same(own, attribute) for own in product.attributes)
        or attribute in product.title.lower()
        or attribute in " ".join(product.bullets).lower()
        or attribute in product.description.lower()
    )


@lru_cache(maxsize=1 << 16)
def _cleaned(text: str) -> str:
    return default_process(text.translate(_LATIN_1))


def _same(one: str, other: str) -> bool:
    return round(token_set_ratio(_cleaned(one), _cleaned(other))) > SAME


# Options as the original matches them -----------------------------------------------------


def _options_faithful(chosen: tuple[str, ...], goal: Goal) -> int:
    """A generated goal's option is a pair there: as text it holds the option's name too, and its
    colour is recognised only where name or value is nothing else."""
    bought = [_colour(value) for value in chosen]
    if isinstance(goal.options, dict):
        pairs = goal.options.items()
        wanted = [next((c for c in COLOURS if c in pair), str(pair)) for pair in pairs]
    else:
        wanted = [_colour(value) for value in goal.options]
    return sum(any(_same(own, value) for own in bought) for value in wanted)


def _colour(value: str) -> str:
    """The first colour that is a substring ("rectangular" holds "tan"), else the value."""
    return next((colour for colour in COLOURS if colour in value), value)


# Options without the flaws ----------------------------------------------------------------


def _options_fixed(chosen: tuple[str, ...], goal: Goal) -> int:
    """Whole words, colours normalised on both sides. A generated goal names a value of its own
    shop: the words are equal. What a person named: all its words are in the value."""
    bought = [_words(value) for value in chosen]
    wanted = [_words(value) for value in goal.option_values]
    if isinstance(goal.options, dict):
        return sum(value in bought for value in wanted)
    return sum(any(value <= own for own in bought) for value in wanted)


def _words(value: str) -> frozenset[str]:
    words = frozenset(_WORD.findall(value.lower()))
    colour = next((colour for colour in COLOURS if colour in words), None)
    return frozenset((colour,)) if colour else words
