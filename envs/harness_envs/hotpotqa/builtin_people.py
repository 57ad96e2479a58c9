"""What the built-in pages say of people."""

from __future__ import annotations

from collections.abc import Iterator

from harness_envs.hotpotqa.builtin_facts import Entity, choose, entities, referring, year
from harness_envs.hotpotqa.builtin_words import Said, a, alike, described, listed, others_of, the


def person(p: Entity) -> Iterator[Said]:
    row, he = p.row, he_or_she(p)
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
    works = others_of(referring("works", "creator", p.title), p, 3, "works")
    if works:
        names = listed([described(w) for w in works])
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
        found = f"{he} discovered {listed(finds[:3])}."
        yield Said(found, ("finds",))
    built = [the(b) for b in others_of(referring("buildings", "architect", p.title), p, 2, "built")]
    if built:
        verb = "built" if p.row["occupation"] == "engineer" else "designed"
        yield Said(f"{he} {verb} {listed(built)}.", ("buildings",))
    ideas = [the(i) for i in others_of(referring("inventions", "inventor", p.title), p, 2, "ideas")]
    if ideas:
        yield Said(f"{p.name} is remembered for {listed(ideas)}.", ("inventions",))
    won = [the(b) for b in others_of(referring("battles", "victor", p.title), p, 2, "won")]
    if won:
        yield Said(f"{he} was the winner of {listed(won)}.", ("battles",))
    tops = [the(m) for m in referring("mountains", "climber", p.title)]
    if tops:
        yield Said(f"{he} was among the first to reach the top of {listed(tops[:2])}.", ("climbs",))


def _contemporaries(p: Entity, he: str) -> Iterator[Said]:
    row = p.row
    job = row["occupation"]
    for other in others_of(alike("people", "born", row["born"]), p, 1, "born"):
        yield Said(
            f"The {other.row['occupation']} {other.name} was born in the same year as {p.name}."
        )
    if not row["born"]:
        return
    born, died = year(p, "born"), year(p, "died")
    alive = [
        o
        for o in alike("people", "occupation", job)
        if o.row["born"] and abs(year(o, "born") - born) < 40 and born < year(o, "died")
    ]
    for other in others_of([o for o in alive if year(o, "born") < died], p, 1, "alive"):
        yield Said(f"{he} lived at the same time as the {job} {other.name}.")
    yield Said(f"{he} reached an age of about {died - born} years.")
    for other in others_of(alike("people", "died", row["died"]), p, 1, "died"):
        yield Said(f"The {other.row['occupation']} {other.name} died in the same year as {p.name}.")


def he_or_she(person: Entity) -> str:
    return "She" if person.row["sex"] == "f" else "He"
