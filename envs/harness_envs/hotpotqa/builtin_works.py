"""What the built-in pages say of books, music, pictures and films."""

from __future__ import annotations

from collections.abc import Iterator

from harness_envs.hotpotqa.builtin_facts import Entity, choose, entities, referring
from harness_envs.hotpotqa.builtin_words import (
    PLURAL,
    Said,
    a,
    alike,
    capital,
    described,
    making,
    others_of,
    the_title,
)


def work(w: Entity) -> Iterator[Said]:
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
    for other in others_of([o for o in others if o.name != w.name], w, 1, "other"):
        yield Said(f"Another work by {creator} is {described(other)}.")
    same = [o for o in alike("works", "year", row["year"]) if o.row["creator"] != creator]
    for other in others_of(same, w, 1, "same year"):
        yield Said(
            f"{capital(described(other))} by {other.row['creator']} dates from the same year."
        )
    for other in others_of(alike("works", "form", form), w, 1, "form"):
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
    kept = the_title(place)
    if place in entities() and entities()[place].kind == "institutions":
        options = [f"It is shown in a museum, {kept}.", f"The museum that owns it is {kept}."]
        if w.title in PLURAL:
            options = [f"They are shown in a museum, {kept}."]
        return Said(choose(options, w.title, "place"), ("place",))
    return Said(f"The {w.row['form']} stands in {kept}.", ("place",))
