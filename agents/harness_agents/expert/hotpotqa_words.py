"""What the HotPotQA expert says: one line that leads from what it read to what it does.

    [what was read]. [what is needed now], so I <action>.

The parts vary in wording, chosen by a number that the caller gives; what is said does not vary.
Names are written as question and pages write them, because a small model copies from its own lines.
"""

from __future__ import annotations

from harness_agents.expert.alfworld_words import Dice, a
from harness_agents.expert.hotpotqa import Learned, Plan
from harness_agents.expert.hotpotqa_notes import Notes, fold
from harness_agents.expert.hotpotqa_question import Quest

#: Participle -> past tense, for "who wrote Dead Souls".
_PAST = {
    "written": "wrote",
    "made": "made",
    "built": "built",
    "won": "won",
    "by": "is behind",
    "first": "was first on",
}
#: Want -> what is not known yet, with ``{n}`` the name.
_NEEDS = {
    "born": ("when {n} was born", "the year in which {n} was born"),
    "died": ("when {n} died", "the year in which {n} died"),
    "birthplace": ("where {n} was born", "the birthplace of {n}"),
    "birth_country": ("in which country {n} was born", "the country where {n} was born"),
    "deathplace": ("where {n} died", "the place where {n} died"),
    "nationality": ("the nationality of {n}", "which nationality {n} had"),
    "job": ("the profession of {n}", "what {n} did for a living"),
    "form": ("what kind of work {n} is", "what {n} is"),
    "prize_year": ("for which year {n} won the Nobel Prize", "the Nobel year of {n}"),
    "prize_field": ("the Nobel field of {n}", "for what {n} won the Nobel Prize"),
    "river": ("the river of {n}", "which river flows through {n}"),
    "country": ("the country of {n}", "in which country {n} is"),
    "city": ("the city of {n}", "in which city {n} is"),
    "continent": ("the continent of {n}", "on which continent {n} is"),
    "capital": ("the capital of {n}", "which city is the capital of {n}"),
    "currency": ("the currency of {n}", "which currency {n} has"),
    "language": ("the language of {n}", "which language {n} has"),
    "based": ("what {n} is based on", "the source of {n}"),
    "museum": ("which museum shows {n}", "the museum of {n}"),
    "premiere": ("where {n} was first performed", "the city of the first performance of {n}"),
    "date": ("the year of {n}", "from which year {n} is"),
    "height": ("the height of {n}", "how high {n} is"),
    "depth": ("the depth of {n}", "how deep {n} is"),
    "length": ("the length of {n}", "how long {n} is"),
    "number": ("the atomic number of {n}",),
    "group": ("the group of {n}", "to which group {n} belongs"),
    "parent": ("the planet of {n}", "to which planet {n} belongs"),
    "open": ("what the page of {n} tells", "more about {n}"),
}
#: Want -> what is known now, with ``{v}`` the value.
_FACTS = {
    "born": ("{n} was born in {v}", "The birth year of {n} is {v}"),
    "died": ("{n} died in {v}", "The year of death of {n} is {v}"),
    "birthplace": ("{n} was born in {v}", "The birthplace of {n} is {v}"),
    "birth_country": ("{n} was born in {v}", "The birth country of {n} is {v}"),
    "deathplace": ("{n} died in {v}", "The place where {n} died is {v}"),
    "nationality": ("The nationality of {n} is {v}", "{n} was {v}"),
    "job": ("The profession of {n} was {v}", "{n} was {a_v}"),
    "form": ("{n} is {a_v}",),
    "prize_year": ("{n} won the Nobel Prize for {v}", "The Nobel year of {n} is {v}"),
    "prize_field": ("{n} won the Nobel Prize in {v}", "The Nobel field of {n} is {v}"),
    "river": ("The river of {n} is the {v}", "{n} lies on the {v}"),
    "country": ("The country of {n} is {v}", "{n} is in {v}"),
    "city": ("The city of {n} is {v}", "{n} is in {v}"),
    "continent": ("{n} is in {v}", "The continent of {n} is {v}"),
    "capital": ("The capital of {n} is {v}", "{v} is the capital of {n}"),
    "currency": ("The currency of {n} is the {v}", "{n} has the {v} as its currency"),
    "language": ("The language of {n} is {v}", "{v} is the language of {n}"),
    "based": ("{n} is based on {v}", "The source of {n} is {v}"),
    "museum": ("The museum of {n} is {v}", "{n} is shown in {v}"),
    "premiere": ("{n} was first performed in {v}", "The first performance of {n} was in {v}"),
    "date": ("{n} is from {v}", "The year of {n} is {v}"),
    "height": ("{n} is {v} metres high", "The height of {n} is {v} metres"),
    "depth": ("{n} is {v} metres deep", "The depth of {n} is {v} metres"),
    "length": ("{n} is {v} kilometres long", "The length of {n} is {v} kilometres"),
    "number": ("{n} has the atomic number {v}", "The atomic number of {n} is {v}"),
    "group": ("{n} is {a_v}", "The group of {n} is {v}"),
    "parent": ("{n} is a moon of {v}", "The planet of {n} is {v}"),
}
#: Larger or smaller, by want: ("A", "B") -> what was found.
_ORDER = {
    "born": ("earlier", "later"),
    "died": ("earlier", "later"),
    "date": ("earlier", "later"),
    "height": ("lower", "higher"),
    "depth": ("less deep", "deeper"),
    "length": ("shorter", "longer"),
    "number": ("lower", "higher"),
}


def say(quest: Quest, notes: Notes, plan: Plan, number: int) -> str:
    """The reasoning line for a plan."""
    pick = Dice(number)
    news = _news(quest, notes, plan, pick)
    line = _next(quest, notes, plan, pick)
    return " ".join(f"{news} {line}".split())


def need(want: str, name: str, pick: Dice) -> str:
    """What is not known: ``"who wrote Dead Souls"``."""
    kind, _, detail = want.partition(":")
    if kind == "creator":
        past = _PAST.get(detail, detail)
        return pick(f"who {past} {name}", f"the person who {past} {name}")
    return pick(*(_NEEDS.get(want) or _NEEDS[kind])).format(n=name)


def fact(item: Learned, pick: Dice) -> str:
    """What is known: ``"Dead Souls was written by Nikolai Gogol"``."""
    kind, _, detail = item.want.partition(":")
    if kind == "creator":
        if detail in ("by", "first"):
            past = _PAST[detail]
            return pick(f"{item.value} {past} {item.name}", f"The one I need is {item.value}")
        past = _PAST.get(detail, detail)
        return pick(f"{item.name} was {detail} by {item.value}", f"{item.value} {past} {item.name}")
    form = pick(*(_FACTS.get(item.want) or _FACTS[kind]))
    return form.format(n=item.name, v=item.value, a_v=a(item.value))


# What was just read -----------------------------------------------------------------------


def _news(quest: Quest, notes: Notes, plan: Plan, pick: Dice) -> str:
    event = notes.event
    if event == "question":
        return _question(quest, pick)
    if event == "invalid":
        return pick(
            "That was no valid action.", "That action has the wrong form.", "That did not work."
        )
    if event in ("thought", "other"):
        return pick("That told me nothing new.", "I still know what I knew before.")
    if event == "miss":
        return pick(
            f"There is no page called {notes.text}.",
            f"No page has the title {notes.text}.",
            f"I did not find {notes.text}.",
        )
    if event == "no_more":
        word = notes.text
        return pick(f"No sentence is left with {word}.", f"There is no more about {word} here.")
    return _read(notes, plan, pick)


def _read(notes: Notes, plan: Plan, pick: Dice) -> str:
    """After a page or a sentence: the fact in it, or that it was not there."""
    title = notes.current.title if notes.current else notes.text
    if plan.learned and plan.aim not in ("lookup", "more", "again"):
        latest = plan.learned[-1]
        line = fact(latest, pick) + "."
        if _alike(latest.name, title):
            return line
        aside = pick(f"I do not need {title}.", f"The page of {title} is not the right one.")
        return f"{aside} {line}"
    if notes.event == "result":
        return pick("That sentence does not tell it.", "That is not the sentence I need.")
    if plan.aim in ("lookup", "more"):
        return pick(
            f"The first sentences do not tell {need(plan.want, title, pick)}.",
            f"I do not see yet {need(plan.want, title, pick)}.",
        )
    if plan.aim == "namesake":
        return pick(f"That page is about another {title}.", f"This {title} is another one.")
    if plan.aim in ("search", "guess") and plan.want == "open":
        return pick(f"I have read about {title}.", f"Now I know what {title} is.")
    return pick(f"I do not need {title}.", f"The page of {title} does not help.")


def _alike(name: str, title: str) -> bool:
    return fold(name) in fold(title) or fold(title) in fold(name)


def _question(quest: Quest, pick: Dice) -> str:
    if quest.kind == "open":
        return pick("I have to find the names in the question.", "I begin with a name I see.")
    name = quest.names[0].text
    if quest.kind == "compare":
        other = quest.names[1].text
        return pick(
            f"I must compare {name} and {other}.",
            f"The question is about {name} and {other}.",
            f"I need to read about {name} and {other}.",
        )
    if len(quest.wants) == 1:
        goal = need(quest.wants[0], name, pick)
        return pick(f"The question asks {goal}.", f"I have to find {goal}.")
    first = need(quest.wants[0], name, pick)
    last = need(quest.wants[1], _role(quest), pick)
    return pick(
        f"The question asks {last}.",
        f"I have to find {last}, and before that {first}.",
        f"First I have to find {first}, then {last}.",
    )


def _role(quest: Quest) -> str:
    """What the second page is about, before its name is known."""
    kind, _, detail = quest.wants[0].partition(":")
    if kind == "creator":
        return "that person"
    if kind == "based":
        return f"that {detail}" if detail else "that work"
    places = {"country": "that country", "museum": "that museum"}
    return places.get(kind, "that city")


# What follows -----------------------------------------------------------------------------


def _next(quest: Quest, notes: Notes, plan: Plan, pick: Dice) -> str:
    if plan.aim == "finish":
        return _answer(quest, plan, pick)
    if plan.aim == "guess":
        return pick(
            f"The best answer I see is {plan.answer}, so I finish with it.",
            f"I found no better answer than {plan.answer}, so I give it.",
        )
    name = plan.name
    if plan.aim in ("lookup", "more"):
        word = plan.keyword
        if plan.aim == "more":
            return pick(f"I look up {word} once more.", f"So I look up the next {word}.")
        if notes.event in ("page", "question"):
            return pick(f"So I look up {word}.", f"I look for the word {word}.")
        wanted = need(plan.want, name, pick)
        return pick(f"I want {wanted}, so I look up {word}.", f"I look up {word} for {wanted}.")
    if plan.aim == "again":
        wanted = need(plan.want, name, pick)
        return pick(
            f"I still need {wanted}, so I go back to {name}.",
            f"I search {name} again, because I need {wanted}.",
        )
    if plan.aim in ("similar", "namesake"):
        return pick(
            f"The title {name} looks right, so I search {name}.",
            f"I think {name} is the one, so I search it.",
            f"So I try {name}.",
        )
    if plan.want == "open":
        return pick(f"I search {name} next.", f"So I search {name}.", f"Now I search {name}.")
    if notes.event == "question":
        return pick(f"So I search {name}.", f"I search {name} first.", f"I begin with {name}.")
    wanted = need(plan.want, name, pick)
    return pick(
        f"I need {wanted}, so I search {name}.",
        f"Now I need {wanted}, so I search {name}.",
        f"To learn {wanted}, I search {name}.",
        f"Next I search {name} to see {wanted}.",
    )


def _answer(quest: Quest, plan: Plan, pick: Dice) -> str:
    told = plan.answer
    if quest.kind == "bridge":
        return pick(
            f"So the answer is {told}.",
            f"That is what was asked, so I finish with {told}.",
            f"The question asked this, so the answer is {told}.",
        )
    before = fact(plan.learned[0], pick)
    if quest.choice == "same":
        verdict = "the same" if told == "yes" else "not the same"
        return pick(
            f"{before}, which is {verdict}, so the answer is {told}.",
            f"{before}. That is {verdict}, so I finish with {told}.",
        )
    if quest.choice == "shared":
        return pick(f"{before} too, so the answer is {told}.", f"{before}, so both share {told}.")
    if quest.choice.startswith("is:"):
        return pick(f"{before}, so the answer is {told}.", f"{before}, so I finish with {told}.")
    order = _ORDER[plan.want][quest.choice == "larger"]
    return pick(
        f"{before}, so {told} is {order}.",
        f"{before}. The {order} one is {told}, so I finish with {told}.",
        f"{before}, so the answer is {told}.",
    )
