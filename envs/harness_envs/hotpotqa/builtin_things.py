"""What the built-in pages say of elements, houses, battles, inventions and moons."""

from __future__ import annotations

from collections.abc import Iterator

from harness_envs.hotpotqa.builtin_facts import Entity, choose, entities, of_kind, referring
from harness_envs.hotpotqa.builtin_words import (
    PLURAL,
    Said,
    a,
    alike,
    capital,
    described,
    in_country,
    listed,
    others_of,
    same_century,
    the,
)


def element(e: Entity) -> Iterator[Said]:
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
    for other in others_of(alike("elements", "group", row["group"]), e, 1, "group"):
        yield Said(f"{other.name} belongs to the same group of elements.")
    others = referring("elements", "discoverer", row["discoverer"]) if row["discoverer"] else ()
    for other in others_of(others, e, 1, "found"):
        yield Said(f"The discoverer also found the element {other.name}.")
    for other in others_of(alike("elements", "year", row["year"]), e, 1, "year"):
        yield Said(f"{other.name} was discovered in the same year.")


def institution(i: Entity) -> Iterator[Said]:
    row = i.row
    yield Said(f"{capital(the(i))} is {a(row['kind'])} in {row['city']}.", ("kind", "city"))
    if row["founded"]:
        options = [
            f"It was founded in {row['founded']}.",
            f"The year in which it was founded is {row['founded']}.",
        ]
        yield Said(choose(options, i.title, "founded"), ("founded",))
    yield Said(f"It {row['note']}.", ("note",))
    kept = others_of(referring("works", "place", i.title), i, 2, "works")
    if kept:
        be = "is" if len(kept) == 1 else "are"
        yield Said(f"Among its treasures {be} {listed([described(w) for w in kept])}.")
    same = [o for o in of_kind("institutions") if o.row["kind"] == row["kind"]]
    for other in others_of(same, i, 1, "kind"):
        yield Said(f"Another well-known {row['kind']} is {the(other)}.")
    for other in others_of(referring("institutions", "city", row["city"]), i, 1, "city"):
        yield Said(f"{capital(the(other))} is in the same city.")
    for other in others_of(same_century(i, same, "founded"), i, 1, "century"):
        yield Said(f"{capital(the(other))} dates from the same century.")


def building(b: Entity) -> Iterator[Said]:
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
    for other in others_of(
        referring("buildings", "architect", row["architect"]), b, 1, "architect"
    ):
        yield Said(f"Another work by {row['architect']} is {the(other)}.")
    for other in others_of(referring("buildings", "city", row["city"]), b, 1, "city"):
        yield Said(f"{capital(the(other))} is in the same city.")
    for other in others_of(referring("institutions", "city", row["city"]), b, 1, "institution"):
        yield Said(f"The city is also the home of {the(other)}.")
    others = [o for o in of_kind("buildings") if o.row["kind"] == row["kind"]]
    for other in others_of(others, b, 1, "kind"):
        yield Said(f"Another famous {row['kind']} is {the(other)}.")


def battle(b: Entity) -> Iterator[Said]:
    row = b.row
    yield Said(f"The {b.name} was fought in {row['year']}.", ("year",))
    if row["country"]:
        yield Said(f"The place lies in {in_country(row['country'])} today.", ("country",))
    options = [f"It was a part of the {row['war']}.", f"It belongs to the {row['war']}."]
    yield Said(choose(options, b.title, "war"), ("war",))
    if row["victor"]:
        leader = row["victor"]
        options = [f"It was won by {leader}.", f"The battle was won by {leader}."]
        yield Said(choose(options, b.title, "victor"), ("victor",))
    if row["loser"]:
        yield Said(f"The loser was {row['loser']}.", ("loser",))
    yield Said(f"It {row['note']}.", ("note",))
    for other in others_of(referring("battles", "country", row["country"]), b, 1, "country"):
        yield Said(f"Another battle in the same country was {the(other)}.")
    for other in others_of(same_century(b, of_kind("battles")), b, 1, "century"):
        yield Said(f"{capital(the(other))} was fought in the same century.")


def invention(i: Entity) -> Iterator[Said]:
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
    for other in others_of(referring("inventions", "inventor", who), i, 1, "inventor"):
        yield Said(f"{who} is also remembered for {the(other)}.")
    for other in others_of(same_century(i, of_kind("inventions")), i, 1, "century"):
        come = "come" if other.title in PLURAL else "comes"
        yield Said(f"{capital(the(other))} {come} from the same century.")


def moon(m: Entity) -> Iterator[Said]:
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
    for other in others_of(near, m, 1, "parent"):
        yield Said(f"Another {row['kind']}{around} is {other.name}.")
    for other in others_of(referring("moons", "parent", m.title), m, 1, "moons"):
        yield Said(f"{other.name} moves around it.")
    found = referring("moons", "discoverer", row["discoverer"]) if row["discoverer"] else ()
    for other in others_of(found, m, 1, "found"):
        yield Said(f"{other.name} has the same discoverer.")
