"""What the built-in pages say of countries, cities and landscapes."""

from __future__ import annotations

from collections.abc import Iterator

from harness_envs.hotpotqa.builtin_facts import Entity, choose, of_kind, referring
from harness_envs.hotpotqa.builtin_words import (
    Said,
    capital,
    described,
    in_country,
    listed,
    making,
    others_of,
    the,
)


def country(c: Entity) -> Iterator[Said]:
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
    towns = others_of(referring("cities", "country", c.title), c, 3, "towns")
    towns = [t for t in towns if t.title != row["capital"]][:2]
    if towns:
        names = listed([t.name for t in towns])
        yield Said(f"{names} {'is a city' if len(towns) == 1 else 'are cities'} of the country.")
    for mountain in others_of(referring("mountains", "country", c.title), c, 1, "mountain"):
        yield Said(f"One of its mountains is {the(mountain)}.")
    for river in others_of(referring("rivers", "source", c.title), c, 1, "river"):
        yield Said(f"{capital(the(river))} rises there.")
    for island in others_of(referring("islands", "country", c.title), c, 1, "island"):
        yield Said(f"The island {island.name} belongs to it.")
    for person in others_of(referring("people", "country", c.title), c, 1, "person"):
        yield Said(f"The {person.row['occupation']} {person.name} was born there.")


def city(c: Entity) -> Iterator[Said]:
    row = c.row
    country = in_country(row["country"])
    yield Said(f"{c.name} is a city in {country}.", ("country",))
    if row["river"]:
        river = row["river"]
        options = [f"Its river is the {river}.", f"The river that flows through it is the {river}."]
        yield Said(choose(options, c.title, "river"), ("river",))
    yield Said(f"It {row['note']}.", ("note",))
    people = others_of(referring("people", "birthplace", c.title), c, 2, "born")
    if people:
        names = listed([f"the {p.row['occupation']} {p.name}" for p in people])
        yield Said(
            f"{capital(names)} {'was' if len(people) == 1 else 'were'} born there.", ("people",)
        )
    places = others_of(referring("institutions", "city", c.title), c, 2, "institutions")
    if places:
        yield Said(f"It is the home of {listed([the(p) for p in places])}.", ("institutions",))
    buildings = others_of(referring("buildings", "city", c.title), c, 2, "buildings")
    if buildings:
        names = listed([the(b) for b in buildings])
        yield Said(f"Visitors come to see {names}.", ("buildings",))
    if c.title in {o.row["capital"] for o in of_kind("countries")}:
        yield Said("It is the capital of the country.")
    for other in others_of(referring("cities", "river", row["river"]), c, 1, "river"):
        yield Said(f"{other.name} lies on the same river.")
    for work in others_of(referring("works", "place", c.title), c, 1, "works"):
        if making(work) in ("written", "composed"):
            yield Said(f"{capital(described(work))} was first performed there.")
    for person in others_of(referring("people", "deathplace", c.title), c, 1, "died"):
        yield Said(f"The {person.row['occupation']} {person.name} died there.")
    near = others_of(referring("cities", "country", row["country"]), c, 2, "cities")
    if near:
        names = listed([n.name for n in near])
        be = "Another city" if len(near) == 1 else "Other cities"
        yield Said(f"{be} of the same country {'is' if len(near) == 1 else 'are'} {names}.")


def river(r: Entity) -> Iterator[Said]:
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
    towns = others_of(referring("cities", "river", r.title), r, 3, "towns")
    if towns:
        yield Said(
            f"{listed([t.name for t in towns])} {'lies' if len(towns) == 1 else 'lie'} on it."
        )
    others = [o for o in of_kind("rivers") if o.row["continent"] == row["continent"]]
    for other in others_of(others, r, 1, "other"):
        yield Said(f"Another river of {row['continent']} is {the(other)}.")


def mountain(m: Entity) -> Iterator[Said]:
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
    for other in others_of(same, m, 1, "range"):
        yield Said(f"{capital(the(other))} is another peak of the {row['range']}.")
    if row["country"]:
        for other in others_of(referring("mountains", "country", row["country"]), m, 1, "country"):
            yield Said(f"Another mountain of the country is {the(other)}.")


def lake(lake: Entity) -> Iterator[Said]:
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
    towns = others_of(referring("cities", "country", row["country"]), lake, 2, "towns")
    if towns:
        yield Said(f"The cities of the country include {listed([t.name for t in towns])}.")
    for other in others_of(referring("mountains", "country", row["country"]), lake, 1, "mountain"):
        yield Said(f"A well-known mountain of the country is {the(other)}.")
    for other in others_of(of_kind("lakes"), lake, 1, "other"):
        yield Said(f"It should not be confused with {other.name}.")


def island(i: Entity) -> Iterator[Said]:
    row = i.row
    country = in_country(row["country"])
    yield Said(f"{capital(the(i))} is an island that belongs to {country}.", ("country",))
    if row["sea"]:
        options = [f"It lies in the {row['sea']}.", f"It is surrounded by the {row['sea']}."]
        yield Said(choose(options, i.title, "sea"), ("sea",))
    yield Said(f"It {row['note']}.", ("note",))
    for other in others_of(referring("islands", "country", row["country"]), i, 1, "country"):
        yield Said(f"Another island of the same country is {other.name}.")
    same = [o for o in of_kind("islands") if row["sea"] and o.row["sea"] == row["sea"]]
    for other in others_of(same, i, 1, "sea"):
        yield Said(f"The island {other.name} lies in the same sea.")
    towns = others_of(referring("cities", "country", row["country"]), i, 2, "towns")
    if towns:
        names = listed([town.name for town in towns])
        verb = "is a city" if len(towns) == 1 else "are cities"
        yield Said(f"{names} {verb} of the same country.")
    for other in others_of(referring("mountains", "country", row["country"]), i, 1, "mountain"):
        yield Said(f"A well-known mountain of the country is {the(other)}.")
