"""Slips in HotPotQA: what a language model does wrong there, and can recover from.

None of them finishes the episode: after an answer there is nothing left to recover.
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from harness.types import Step
from harness_agents.expert.hotpotqa_notes import read_action, take_notes
from harness_agents.expert.hotpotqa_open import names_in
from harness_agents.expert.hotpotqa_question import read_question

_IDLE_WORDS = ("answer", "year", "page", "because", "history", "question")


def slips(
    action: str, instruction: str, history: Sequence[Step], observation: str, rng: Random
) -> dict[str, list[str]]:
    """Wrong actions by kind, made from the question and what was read."""
    verb, text = read_action(action)
    quest, notes = read_question(instruction), take_notes(instruction, history, observation)
    asked = [name.text for name in quest.names] or names_in(instruction)
    read = [page.title for page in notes.pages.values()]
    seen = [name for page in notes.pages.values() for s in page.known for name in names_in(s)]
    elsewhere = [name for name in seen if name not in read and name != text]
    found = {
        "wrong_entity": [f"search[{name}]" for name in elsewhere[:6]],
        "searched_again": [f"search[{title}]" for title in read if title != text],
        "misspelt": [f"search[{wrong}]" for wrong in _misspelt(text or "".join(asked[:1]), rng)],
        "whole_question": [f"search[{instruction}]"],
        "absent_word": [f"lookup[{rng.choice(_IDLE_WORDS)}]"],
        "malformed": _malformed(verb, text),
        "other": [],
    }
    if notes.current is not None and verb == "search":
        found["lookup_for_search"] = [f"lookup[{text}]"]
    if verb == "lookup":
        found["search_for_lookup"] = [f"search[{text}]"]
        found["whole_sentence"] = [f"lookup[{text} in]", f"lookup[{text} was]"]
    if verb == "finish":
        found["unfinished"] = [f"lookup[{text}]", f"search[{text}]"]
    # What the general slips call malformed could be an answer, which ends the episode.
    return {kind: [s for s in actions if _goes_on(s)] for kind, actions in found.items()}


def _goes_on(action: str) -> bool:
    return read_action(action).verb != "finish"


def _misspelt(title: str, rng: Random) -> list[str]:
    """A letter left out, two exchanged, the last word forgotten."""
    letters = [i for i in range(1, len(title) - 1) if title[i].isalpha() and title[i + 1].isalpha()]
    words = title.split()
    wrong = [" ".join(words[:-1])] if len(words) > 1 else []
    if letters:
        i = rng.choice(letters)
        wrong += [title[:i] + title[i + 1 :], title[:i] + title[i + 1] + title[i] + title[i + 2 :]]
    return [w for w in wrong if w and w != title]


def _malformed(verb: str, text: str) -> list[str]:
    """Actions that a reader understands and the environment does not."""
    return [f"{verb} {text}", f"{verb}({text})", f"{verb}[{text}", f"{verb}: {text}", text]
