"""The built-in pages: sentences made from the facts, by templates.

A page opens with what the thing is; the other facts follow in an order of its own, so that some lie
beyond the five sentences that a search shows. Wording and order follow from the title.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from typing import NamedTuple

from harness_envs.hotpotqa.builtin_facts import (
    Entity,
    choose,
    entities,
    number,
    of_kind,
    referring,
    shuffled,
    year,
)

#: Sentences a page has at most (what is least of its own is left out first), and about at least.
MOST = 8
LEAST = 6
_PRONOUNS = {"He": "", "She": "", "It": "", "They": "", "Its": "'s"}


class Said(NamedTuple):
    """A sentence and the facts (columns of the entity's table) that it tells."""

    text: str
    facts: tuple[str, ...] = ()


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
        named = _list([the(e) for e in _others(of_kind(entity.kind), entity, 3, "see also")])
        kept.append(Said(f"See also {named}."))
    order = [said[0], *shuffled(kept, "order", entity.title)]
    where: dict[str, int] = {}
    for index, sentence in enumerate(order):
        for fact in sentence.facts:
            where.setdefault(fact, index)
    return Written(entity, tuple(_named(order, entity)), where)


def _named(order: Sequence[Said], entity: Entity) -> Iterator[str]:
    """The sentences; one that comes after a sentence about others names what it is about."""
    before = order[0]
    for said in order:
        pronoun, _, rest = said.text.partition(" ")
        if before.facts or pronoun not in _PRONOUNS:
            yield said.text
        else:
            yield f"{capital(the(entity))}{_PRONOUNS[pronoun]} {rest}"
        before = said


# Words ------------------------------------------------------------------------------------

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
        "Brandenburg Concertos",
        "Campbell's Soup Cans",
        "Enigma Variations",
        "Incompleteness theorems",
        "Logarithms",
        "Maxwell's equations",
        "Pictures at an Exhibition",
        "Quaternions",
        "Scenes from Childhood",
        "Slavonic Dances",
        "Transposons",
        "X-rays",
    }
)


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


def _the(title: str) -> str:
    return the(entities()[title]) if title in entities() else title


def capital(text: str) -> str:
    return text[0].upper() + text[1:]


def _he(person: Entity) -> str:
    return "She" if person.row["sex"] == "f" else "He"


def described(work: Entity) -> str:
    """``"the opera Carmen"``."""
    form = work.row["form"]
    return f"the {form} {work.name}"


def _list(parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def _others(options: Sequence[Entity], entity: Entity, count: int, *key: str) -> list[Entity]:
    """Some of the others, chosen by the title."""
    rest = [o for o in options if o.title != entity.title]
    first = number(entity.title, *key)
    return [rest[(first + i) % len(rest)] for i in range(min(count, len(rest)))]


# Kinds ------------------------------------------------------------------------------------


def _person(p: Entity) -> Iterator[Said]:
    row, he = p.row, _he(p)
    job = f"{row['nationality']} {row['occupation']}".strip()
    options = [f"{p.name} was {a(job)}.", f"{p.name} was {a(job)}."]
    lead_facts: tuple[str, ...] = ("nationality", "occupation")
    in_lead = row["born"] and choose((True, False, False), p.title, "years")
    if in_lead:
        options = [
            f"{p.name} ({row['born']}-{row['died']}) was {a(job)}.",
            f"{p.name} was {a(job)} who lived from {row['born']} to {row['died']}.",
        ]
        lead_facts += ("born", "died")
    yield Said(choose(options, p.title, "lead"), lead_facts)
    yield _birth(p, he, bool(in_lead))
    yield from _deeds(p, he)
    if row["prize"]:
        field, _, won = row["prize"].rpartition(" ")
        options = [
            f"{he} won the Nobel Prize in {field} for {won}.",
            f"The Nobel Prize in {field} for {won} went to {p.name}.",
        ]
        if field == "Peace":
            options = [f"{he} won the Nobel Peace Prize for {won}."]
        yield Said(choose(options, p.title, "prize"), ("prize",))
    if row["note"]:
        yield Said(f"{he} {row['note']}.", ("note",))
    if row["deathplace"]:
        options = [
            f"{he} died in {row['deathplace']} in {row['died']}.",
            f"In {row['died']} {he.lower()} died in {row['deathplace']}.",
            f"{p.name} died in {row['deathplace']} in {row['died']}.",
        ]
        yield Said(choose(options, p.title, "death"), ("deathplace", "died"))
    elif not in_lead:
        yield Said(f"{he} died in {row['died']}.", ("died",))
    yield from _contemporaries(p, he)


def _birth(p: Entity, he: str, year_told: bool) -> Said:
    row = p.row
    town, country = row["birthplace"], row["country"]
    where = [town] if town else []
    facts: tuple[str, ...] = ("birthplace",) if town else ()
    # The page of a city tells its country; of a village the person's own page does.
    if country and town not in entities():
        where.append(country)
        facts += ("country",)
    place = f" in {', '.join(where)}" if where else ""
    if year_told or not row["born"]:
        return Said(f"{he} was born{place}." if place else "", facts)
    options = [
        f"{he} was born{place} in {row['born']}.",
        f"{p.name} was born in {row['born']}{place}.",
        f"Born{place} in {row['born']}, {he.lower()} became {a(row['occupation'])}.",
    ]
    return Said(choose(options[: 3 if place else 2], p.title, "birth"), (*facts, "born"))


def _deeds(p: Entity, he: str) -> Iterator[Said]:
    """What the person is known for: the works and finds that have pages."""
    works = _others(referring("works", "creator", p.title), p, 3, "works")
    if works:
        names = _list([described(w) for w in works])
        options = [
            f"{he} is known for {names}.",
            f"Among {'her' if he == 'She' else 'his'} works {'is' if len(works) == 1 else 'are'} "
            f"{names}.",
        ]
        yield Said(choose(options, p.title, "works"), ("works",))
    finds = [
        *(f"the element {e.name}" for e in referring("elements", "discoverer", p.title)),
        *(f"the {m.row['kind']} {m.name}" for m in referring("moons", "discoverer", p.title)),
    ]
    if finds:
        found = f"{he} discovered {_list(finds[:3])}."
        yield Said(found, ("finds",))
    built = [the(b) for b in _others(referring("buildings", "architect", p.title), p, 2, "built")]
    if built:
        verb = "built" if p.row["occupation"] == "engineer" else "designed"
        yield Said(f"{he} {verb} {_list(built)}.", ("buildings",))
    ideas = [the(i) for i in _others(referring("inventions", "inventor", p.title), p, 2, "ideas")]
    if ideas:
        yield Said(f"{p.name} is remembered for {_list(ideas)}.", ("inventions",))
    won = [the(b) for b in _others(referring("battles", "victor", p.title), p, 2, "won")]
    if won:
        yield Said(f"{he} was the winner of {_list(won)}.", ("battles",))
    tops = [the(m) for m in referring("mountains", "climber", p.title)]
    if tops:
        yield Said(f"{he} was among the first to reach the top of {_list(tops[:2])}.", ("climbs",))


def _contemporaries(p: Entity, he: str) -> Iterator[Said]:
    row = p.row
    job = row["occupation"]
    for other in _others(_alike("people", "born", row["born"]), p, 1, "born"):
        yield Said(
            f"The {other.row['occupation']} {other.name} was born in the same year as {p.name}."
        )
    if not row["born"]:
        return
    born, died = year(p, "born"), year(p, "died")
    alive = [
        o
        for o in _alike("people", "occupation", job)
        if o.row["born"] and abs(year(o, "born") - born) < 40 and born < year(o, "died")
    ]
    for other in _others([o for o in alive if year(o, "born") < died], p, 1, "alive"):
        yield Said(f"{he} lived at the same time as the {job} {other.name}.")
    yield Said(f"{he} reached an age of about {died - born} years.")
    for other in _others(_alike("people", "died", row["died"]), p, 1, "died"):
        yield Said(f"The {other.row['occupation']} {other.name} died in the same year as {p.name}.")


@cache
def _by(kind: str, column: str) -> Mapping[str, list[Entity]]:
    found: defaultdict[str, list[Entity]] = defaultdict(list)
    for entity in of_kind(kind):
        found[entity.row[column]].append(entity)
    return found


def _alike(kind: str, column: str, value: str) -> Sequence[Entity]:
    """Entities of a kind that have this value in a column; none where it is not known."""
    return _by(kind, column).get(value, ()) if value else ()


def _work(w: Entity) -> Iterator[Said]:
    row, verb = w.row, making(w)
    plural = w.title in PLURAL
    be, it = ("are", "They") if plural else ("is", "It")
    were = "were" if plural else "was"
    form, creator = row["form"], row["creator"]
    by = f"{verb} by {creator}"
    if choose((True, True, True, False), w.title, "lead"):
        options = [
            f"{w.name} {be} {a(form)} by {creator}.",
            f"{w.name} {be} {a(form)} that was {by}.",
            f"{w.name} {be} {a(form)} {by}.",
        ]
        yield Said(choose(options, w.title, "lead by"), ("form", "creator"))
    else:
        yield Said(f"{w.name} {be} the title of {a(form)}.", ("form",))
        options = [f"{it} {were} {by}.", f"The {form} {were if plural else 'was'} {by}."]
        yield Said(choose(options, w.title, "by"), ("creator",))
    yield _appearance(w, it, were)
    if row["language"]:
        text = "text" if verb == "composed" else form
        options = [
            f"The language of the {text} is {row['language']}.",
            f"{row['language']} is the language of the {text}.",
        ]
        yield Said(choose(options, w.title, "language"), ("language",))
    if row["based"]:
        source = described(entities()[row["based"]])
        options = [f"{it} {be} based on {source}.", f"The {form} is based on {source}."]
        yield Said(choose(options, w.title, "based"), ("based",))
    if row["note"]:
        yield Said(f"{it} {row['note']}.", ("note",))
    if verb in ("painted", "made") and row["place"]:
        yield _where_kept(w, it)
    others = referring("works", "creator", creator)
    for other in _others([o for o in others if o.name != w.name], w, 1, "other"):
        yield Said(f"Another work by {creator} is {described(other)}.")
    same = [o for o in _alike("works", "year", row["year"]) if o.row["creator"] != creator]
    for other in _others(same, w, 1, "same year"):
        yield Said(
            f"{capital(described(other))} by {other.row['creator']} dates from the same year."
        )
    for other in _others(_alike("works", "form", form), w, 1, "form"):
        yield Said(f"Another {form} is {other.name} by {other.row['creator']}.")


def _appearance(w: Entity, it: str, were: str) -> Said:
    """When, and where, a work came before the public."""
    row, verb = w.row, making(w)
    when, place = row["year"].rstrip("*"), row["place"]
    staged = place and verb in ("written", "composed")
    facts: tuple[str, ...] = ("year", "place") if staged else ("year",)
    if not when:
        return Said(f"{it} {were} first performed in {place}." if staged else "", ("place",))
    if row["year"].endswith("*"):
        options = [f"It was first complete in print in {when}."]
    elif verb in ("painted", "made"):
        options = [f"{it} {were} completed in {when}.", f"{row['creator']} completed it in {when}."]
        options = options[:1] if w.title in PLURAL else options
    elif verb == "directed":
        options = [f"It was first shown in {when}.", f"The film was first shown in {when}."]
    elif staged:
        options = [
            f"{it} {were} first performed in {place} in {when}.",
            f"The first performance took place in {place} in {when}.",
            f"In {when} it was first performed in {place}.",
        ]
        options = options[:2] if w.title in PLURAL else options
    else:
        options = [f"{it} {were} first published in {when}.", f"{it} first appeared in {when}."]
    return Said(choose(options, w.title, "year"), facts)


def _where_kept(w: Entity, it: str) -> Said:
    place = w.row["place"]
    kept = _the(place)
    if place in entities() and entities()[place].kind == "institutions":
        options = [f"It is shown in a museum, {kept}.", f"The museum that owns it is {kept}."]
        if w.title in PLURAL:
            options = [f"They are shown in a museum, {kept}."]
        return Said(choose(options, w.title, "place"), ("place",))
    return Said(f"The {w.row['form']} stands in {kept}.", ("place",))


def _country(c: Entity) -> Iterator[Said]:
    row = c.row
    if row["continent"]:
        options = [f"{in_country(c.title)} is a country in {row['continent']}."]
    else:
        options = [f"{in_country(c.title)} is a country."]
    yield Said(capital(choose(options, c.title, "lead")), ("continent",))
    if row["capital"]:
        options = [
            f"Its capital is {row['capital']}.",
            f"The capital of the country is {row['capital']}.",
        ]
        yield Said(choose(options, c.title, "capital"), ("capital",))
    if row["currency"]:
        options = [
            f"The currency is the {row['currency']}.",
            f"The {row['currency']} is its currency.",
        ]
        yield Said(choose(options, c.title, "currency"), ("currency",))
    if row["language"]:
        options = [
            f"The main language is {row['language']}.",
            f"{row['language']} is the main language.",
        ]
        yield Said(choose(options, c.title, "language"), ("language",))
    yield Said(f"It {row['note']}.", ("note",))
    towns = _others(referring("cities", "country", c.title), c, 3, "towns")
    towns = [t for t in towns if t.title != row["capital"]][:2]
    if towns:
        names = _list([t.name for t in towns])
        yield Said(f"{names} {'is a city' if len(towns) == 1 else 'are cities'} of the country.")
    for mountain in _others(referring("mountains", "country", c.title), c, 1, "mountain"):
        yield Said(f"One of its mountains is {the(mountain)}.")
    for river in _others(referring("rivers", "source", c.title), c, 1, "river"):
        yield Said(f"{capital(the(river))} rises there.")
    for island in _others(referring("islands", "country", c.title), c, 1, "island"):
        yield Said(f"The island {island.name} belongs to it.")
    for person in _others(referring("people", "country", c.title), c, 1, "person"):
        yield Said(f"The {person.row['occupation']} {person.name} was born there.")


def in_country(title: str) -> str:
    """A country as running text has it after "in" or "of": ``"the Netherlands"``."""
    plural = title in ("Netherlands", "United States", "Czech Republic")
    return f"the {title}" if plural else title


def _city(c: Entity) -> Iterator[Said]:
    row = c.row
    country = in_country(row["country"])
    yield Said(f"{c.name} is a city in {country}.", ("country",))
    if row["river"]:
        river = row["river"]
        options = [f"Its river is the {river}.", f"The river that flows through it is the {river}."]
        yield Said(choose(options, c.title, "river"), ("river",))
    yield Said(f"It {row['note']}.", ("note",))
    people = _others(referring("people", "birthplace", c.title), c, 2, "born")
    if people:
        names = _list([f"the {p.row['occupation']} {p.name}" for p in people])
        yield Said(
            f"{capital(names)} {'was' if len(people) == 1 else 'were'} born there.", ("people",)
        )
    places = _others(referring("institutions", "city", c.title), c, 2, "institutions")
    if places:
        yield Said(f"It is the home of {_list([the(p) for p in places])}.", ("institutions",))
    buildings = _others(referring("buildings", "city", c.title), c, 2, "buildings")
    if buildings:
        names = _list([the(b) for b in buildings])
        yield Said(f"Visitors come to see {names}.", ("buildings",))
    if c.title in {o.row["capital"] for o in of_kind("countries")}:
        yield Said("It is the capital of the country.")
    for other in _others(referring("cities", "river", row["river"]), c, 1, "river"):
        yield Said(f"{other.name} lies on the same river.")
    for work in _others(referring("works", "place", c.title), c, 1, "works"):
        if making(work) in ("written", "composed"):
            yield Said(f"{capital(described(work))} was first performed there.")
    for person in _others(referring("people", "deathplace", c.title), c, 1, "died"):
        yield Said(f"The {person.row['occupation']} {person.name} died there.")
    near = _others(referring("cities", "country", row["country"]), c, 2, "cities")
    if near:
        names = _list([n.name for n in near])
        be = "Another city" if len(near) == 1 else "Other cities"
        yield Said(f"{be} of the same country {'is' if len(near) == 1 else 'are'} {names}.")


def _river(r: Entity) -> Iterator[Said]:
    row = r.row
    mouth = "" if not row["mouth"] else f" that flows into the {row['mouth']}"
    yield Said(f"The {r.name} is a river{mouth}.", ("mouth",))
    yield Said(f"It is about {row['length']} kilometres long.", ("length",))
    if row["source"]:
        options = [
            f"It has its source in {in_country(row['source'])}.",
            f"Its source is in {in_country(row['source'])}.",
        ]
        yield Said(choose(options, r.title, "source"), ("source",))
    yield Said(f"It {row['note']}.", ("note",))
    yield Said(f"It belongs to the rivers of {row['continent']}.", ("continent",))
    towns = _others(referring("cities", "river", r.title), r, 3, "towns")
    if towns:
        yield Said(
            f"{_list([t.name for t in towns])} {'lies' if len(towns) == 1 else 'lie'} on it."
        )
    others = [o for o in of_kind("rivers") if o.row["continent"] == row["continent"]]
    for other in _others(others, r, 1, "other"):
        yield Said(f"Another river of {row['continent']} is {the(other)}.")


def _mountain(m: Entity) -> Iterator[Said]:
    row = m.row
    name = capital(the(m))
    where = f" in {in_country(row['country'])}" if row["country"] else ""
    yield Said(f"{name} is a mountain{where}.", ("country",))
    options = [
        f"It is about {row['height']} metres high.",
        f"Its top is about {row['height']} metres above the sea.",
    ]
    yield Said(choose(options, m.title, "height"), ("height",))
    if row["range"]:
        options = [f"It belongs to the {row['range']}.", f"It is a part of the {row['range']}."]
        yield Said(choose(options, m.title, "range"), ("range",))
    if row["year"]:
        options = [
            f"It was first climbed in {row['year']}.",
            f"People first stood on it in {row['year']}.",
        ]
        yield Said(choose(options, m.title, "year"), ("year",))
    if row["climber"]:
        yield Said(f"Among the first to reach the top was {row['climber']}.", ("climber",))
    yield Said(f"It {row['note']}.", ("note",))
    same = [o for o in of_kind("mountains") if row["range"] and o.row["range"] == row["range"]]
    for other in _others(same, m, 1, "range"):
        yield Said(f"{capital(the(other))} is another peak of the {row['range']}.")
    if row["country"]:
        for other in _others(referring("mountains", "country", row["country"]), m, 1, "country"):
            yield Said(f"Another mountain of the country is {the(other)}.")


def _lake(lake: Entity) -> Iterator[Said]:
    row = lake.row
    country = in_country(row["country"])
    yield Said(f"{lake.name} is a lake in {country}.", ("country",))
    if row["depth"]:
        options = [
            f"It is about {row['depth']} metres deep.",
            f"Its deepest point lies {row['depth']} metres below the surface.",
        ]
        yield Said(choose(options, lake.title, "depth"), ("depth",))
    yield Said(f"It {row['note']}.", ("note",))
    towns = _others(referring("cities", "country", row["country"]), lake, 2, "towns")
    if towns:
        yield Said(f"The cities of the country include {_list([t.name for t in towns])}.")
    for other in _others(referring("mountains", "country", row["country"]), lake, 1, "mountain"):
        yield Said(f"A well-known mountain of the country is {the(other)}.")
    for other in _others(of_kind("lakes"), lake, 1, "other"):
        yield Said(f"It should not be confused with {other.name}.")


def _island(i: Entity) -> Iterator[Said]:
    row = i.row
    country = in_country(row["country"])
    yield Said(f"{capital(the(i))} is an island that belongs to {country}.", ("country",))
    if row["sea"]:
        options = [f"It lies in the {row['sea']}.", f"It is surrounded by the {row['sea']}."]
        yield Said(choose(options, i.title, "sea"), ("sea",))
    yield Said(f"It {row['note']}.", ("note",))
    for other in _others(referring("islands", "country", row["country"]), i, 1, "country"):
        yield Said(f"Another island of the same country is {other.name}.")
    same = [o for o in of_kind("islands") if row["sea"] and o.row["sea"] == row["sea"]]
    for other in _others(same, i, 1, "sea"):
        yield Said(f"The island {other.name} lies in the same sea.")
    towns = _others(referring("cities", "country", row["country"]), i, 2, "towns")
    if towns:
        names = _list([town.name for town in towns])
        verb = "is a city" if len(towns) == 1 else "are cities"
        yield Said(f"{names} {verb} of the same country.")
    for other in _others(referring("mountains", "country", row["country"]), i, 1, "mountain"):
        yield Said(f"A well-known mountain of the country is {the(other)}.")


def _element(e: Entity) -> Iterator[Said]:
    row = e.row
    yield Said(f"{e.name} is a chemical element with the symbol {row['symbol']}.", ("symbol",))
    options = [
        f"Its atomic number is {row['number']}.",
        f"It has the atomic number {row['number']}.",
    ]
    yield Said(choose(options, e.title, "number"), ("number",))
    if row["group"]:
        yield Said(f"As for its group, it is {a(row['group'])}.", ("group",))
    if row["discoverer"]:
        shared = " and others" if row["shared"] else ""
        when = f" in {row['year']}" if row["year"] else ""
        options = [
            f"It was discovered{when} by {row['discoverer']}{shared}.",
            f"{row['discoverer']}{shared} discovered it{when}.",
        ]
        yield Said(choose(options, e.title, "found"), ("discoverer", "year"))
    if row["origin"]:
        yield Said(f"The name comes from {row['origin']}.", ("origin",))
    yield Said(f"It {row['note']}.", ("note",))
    for other in _others(_alike("elements", "group", row["group"]), e, 1, "group"):
        yield Said(f"{other.name} belongs to the same group of elements.")
    others = referring("elements", "discoverer", row["discoverer"]) if row["discoverer"] else ()
    for other in _others(others, e, 1, "found"):
        yield Said(f"The discoverer also found the element {other.name}.")
    for other in _others(_alike("elements", "year", row["year"]), e, 1, "year"):
        yield Said(f"{other.name} was discovered in the same year.")


def _institution(i: Entity) -> Iterator[Said]:
    row = i.row
    yield Said(f"{capital(the(i))} is {a(row['kind'])} in {row['city']}.", ("kind", "city"))
    if row["founded"]:
        options = [
            f"It was founded in {row['founded']}.",
            f"The year in which it was founded is {row['founded']}.",
        ]
        yield Said(choose(options, i.title, "founded"), ("founded",))
    yield Said(f"It {row['note']}.", ("note",))
    kept = _others(referring("works", "place", i.title), i, 2, "works")
    if kept:
        be = "is" if len(kept) == 1 else "are"
        yield Said(f"Among its treasures {be} {_list([described(w) for w in kept])}.")
    same = [o for o in of_kind("institutions") if o.row["kind"] == row["kind"]]
    for other in _others(same, i, 1, "kind"):
        yield Said(f"Another well-known {row['kind']} is {the(other)}.")
    for other in _others(referring("institutions", "city", row["city"]), i, 1, "city"):
        yield Said(f"{capital(the(other))} is in the same city.")
    century = [o for o in same if row["founded"] and o.row["founded"][:2] == row["founded"][:2]]
    for other in _others(century, i, 1, "century"):
        yield Said(f"{capital(the(other))} dates from the same century.")


def _building(b: Entity) -> Iterator[Said]:
    row = b.row
    yield Said(f"{capital(the(b))} is {a(row['kind'])} in {row['city']}.", ("kind", "city"))
    verb = "built" if entities()[row["architect"]].row["occupation"] == "engineer" else "designed"
    options = [
        f"It was {verb} by {row['architect']}.",
        f"The {row['kind']} was {verb} by {row['architect']}.",
    ]
    yield Said(choose(options, b.title, "architect"), ("architect",))
    if row["year"]:
        options = [
            f"It was completed in {row['year']}.",
            f"The work on it was completed in {row['year']}.",
        ]
        yield Said(choose(options, b.title, "year"), ("year",))
    yield Said(f"It {row['note']}.", ("note",))
    for other in _others(referring("buildings", "architect", row["architect"]), b, 1, "architect"):
        yield Said(f"Another work by {row['architect']} is {the(other)}.")
    for other in _others(referring("buildings", "city", row["city"]), b, 1, "city"):
        yield Said(f"{capital(the(other))} is in the same city.")
    for other in _others(referring("institutions", "city", row["city"]), b, 1, "institution"):
        yield Said(f"The city is also the home of {the(other)}.")
    others = [o for o in of_kind("buildings") if o.row["kind"] == row["kind"]]
    for other in _others(others, b, 1, "kind"):
        yield Said(f"Another famous {row['kind']} is {the(other)}.")


def _battle(b: Entity) -> Iterator[Said]:
    row = b.row
    yield Said(f"The {b.name} was fought in {row['year']}.", ("year",))
    if row["country"]:
        yield Said(f"The place lies in {in_country(row['country'])} today.", ("country",))
    options = [f"It was a part of the {row['war']}.", f"It belongs to the {row['war']}."]
    yield Said(choose(options, b.title, "war"), ("war",))
    if row["victor"]:
        leader = _the_person(row["victor"])
        options = [f"It was won by {leader}.", f"The battle was won by {leader}."]
        yield Said(choose(options, b.title, "victor"), ("victor",))
    if row["loser"]:
        yield Said(f"The loser was {_the_person(row['loser'])}.", ("loser",))
    yield Said(f"It {row['note']}.", ("note",))
    for other in _others(referring("battles", "country", row["country"]), b, 1, "country"):
        yield Said(f"Another battle in the same country was {the(other)}.")
    same = [o for o in of_kind("battles") if o.row["year"][:2] == row["year"][:2]]
    for other in _others(same, b, 1, "century"):
        yield Said(f"{capital(the(other))} was fought in the same century.")


def _the_person(name: str) -> str:
    return f"the {name}" if name.startswith("Duke") else name


def _invention(i: Entity) -> Iterator[Said]:
    row = i.row
    plural = i.title in PLURAL
    be, it, were = ("are", "They", "were") if plural else ("is", "It", "was")
    name = capital(the(i))
    yield Said(f"{name} {be} {a(row['kind'])}.", ("kind",))
    who = row["inventor"]
    options = [
        f"{it} {were} {row['verb']} by {who}.",
        f"The {row['kind']} was {row['verb']} by {who}.",
    ]
    options = options[:1] if plural else options
    yield Said(choose(options, i.title, "inventor"), ("inventor",))
    if row["year"]:
        yield Said(f"{it} {'date' if plural else 'dates'} from {row['year']}.", ("year",))
    yield Said(f"{it} {row['note']}.", ("note",))
    for other in _others(referring("inventions", "inventor", who), i, 1, "inventor"):
        yield Said(f"{who} is also remembered for {the(other)}.")
    same = [
        o for o in of_kind("inventions") if row["year"] and o.row["year"][:2] == row["year"][:2]
    ]
    for other in _others(same, i, 1, "century"):
        come = "come" if other.title in PLURAL else "comes"
        yield Said(f"{capital(the(other))} {come} from the same century.")


def _moon(m: Entity) -> Iterator[Said]:
    row = m.row
    around = f" of {row['parent']}" if row["parent"] else ""
    yield Said(f"{m.name} is {a(row['kind'])}{around}.", ("kind", "parent"))
    if row["discoverer"]:
        options = [
            f"It was discovered in {row['year']} by {row['discoverer']}.",
            f"{row['discoverer']} discovered it in {row['year']}.",
            f"In {row['year']} it was discovered by {row['discoverer']}.",
        ]
        yield Said(choose(options, m.title, "found"), ("discoverer", "year"))
    if row["origin"]:
        yield Said(f"It was named after {row['origin']}.", ("origin",))
    yield Said(f"It {row['note']}.", ("note",))
    same = [o for o in of_kind("moons") if o.row["kind"] == row["kind"]]
    near = referring("moons", "parent", row["parent"]) if row["parent"] else same
    for other in _others(near, m, 1, "parent"):
        yield Said(f"Another {row['kind']}{around} is {other.name}.")
    for other in _others(referring("moons", "parent", m.title), m, 1, "moons"):
        yield Said(f"{other.name} moves around it.")
    found = referring("moons", "discoverer", row["discoverer"]) if row["discoverer"] else ()
    for other in _others(found, m, 1, "found"):
        yield Said(f"{other.name} has the same discoverer.")


_WRITERS: Mapping[str, Callable[[Entity], Iterator[Said]]] = {
    "people": _person,
    "works": _work,
    "countries": _country,
    "cities": _city,
    "rivers": _river,
    "mountains": _mountain,
    "lakes": _lake,
    "islands": _island,
    "elements": _element,
    "institutions": _institution,
    "buildings": _building,
    "battles": _battle,
    "inventions": _invention,
    "moons": _moon,
}
