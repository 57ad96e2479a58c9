"""``HotPotQAEnv``: ReAct's question answering as a Gymnasium environment."""

from __future__ import annotations

import re
import threading
import typing
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Literal

from harness import official
from harness.env import Environment
from harness.errors import ConfigError, DataError, EnvError, unknown
from harness.tasksets import TaskSet
from harness.types import Info
from harness_envs.hotpotqa import data as sources
from harness_envs.hotpotqa import reading, store
from harness_envs.hotpotqa.corpus import Corpus
from harness_envs.hotpotqa.metrics import contains, exact_match, f1_score
from harness_envs.hotpotqa.protocols import PROTOCOLS
from harness_envs.hotpotqa.reading import Answer, Lookup, Unsearchable
from harness_envs.hotpotqa.records import Question
from harness_envs.hotpotqa.tasksets import TASK_SETS, gold_pages

BACKENDS = ("corpus", "wikipedia")
_ACTION = re.compile(r"\A(search|lookup|finish|think)\[(.*)\]\Z", re.DOTALL)
#: A page with these words lists others: its name in brackets is searched instead. So often at most.
_AMBIGUOUS = "may refer to:"
_DEEPEST = 10
_LOCK = threading.Lock()


class Pages(typing.Protocol):
    """Where searches are answered."""

    def search(self, entity: str) -> Answer: ...

    def close(self) -> None: ...


class HotPotQAEnv(Environment):
    """HotPotQA in ReAct's form: ``search[entity]``, ``lookup[keyword]``, ``finish[answer]``.

    Reward is exact match, given when the episode ends; success is the same; score is F1.
    ``info["measures"]`` then holds ``em``, ``f1`` and ``contains``, ``info["answer"]`` the answer.

    ``data``: ``"builtin"`` (questions and pages of this project), a folder or file of questions
    (layouts in ``data``), or ``"official"``: the folder named by the environment variable
    ``HOTPOTQA_DATA``, else ``hotpotqa`` inside ``HARNESS_DATA``.
    ``backend``: ``"corpus"``, local pages; or ``"wikipedia"``, as ReAct did.
    ``corpus``: pages to search instead of the data's own: a file, folder or archive (``pages``), or
    a folder that ``python -m harness_envs.hotpotqa.corpus`` wrote.
    ``corpus_hash``: refuse other local pages than those of this fingerprint (task sets say it).
    ``cache``: file (or folder) of pages that Wikipedia answered; a frozen one (module ``cache``)
    answers alone.
    ``site``, ``patience``: Wikipedia's address, and seconds to go on trying.
    ``aliases``: also take an action whose first letter is a capital, as ReAct's own loop does;
    ``info["executed"]`` then holds what was executed.

    A question whose supporting pages are not among the local ones is no task: a split is without
    it, and asking for it raises DataError.
    """

    version = "0.1"
    max_steps = 10
    lists_actions = False
    protocols = PROTOCOLS
    scoring_options = ("backend", "corpus_hash", "aliases")
    places = ("data", "corpus", "cache")

    def __init__(
        self,
        *,
        data: str | Path = "builtin",
        backend: Literal["corpus", "wikipedia"] = "corpus",
        corpus: str | Path | None = None,
        corpus_hash: str | None = None,
        cache: str | Path | None = None,
        site: str | None = None,
        patience: float = 60.0,
        aliases: bool = False,
        reveal: bool = False,
    ) -> None:
        super().__init__(reveal=reveal)
        if backend not in BACKENDS:
            raise ConfigError(unknown("HotPotQA backend", str(backend), BACKENDS))
        if backend == "corpus" and (cache is not None or site is not None):
            raise ConfigError("cache= and site= are Wikipedia's: say backend='wikipedia' too.")
        if backend == "wikipedia" and corpus is not None:
            raise ConfigError("corpus= names local pages: say backend='corpus', or leave it out.")
        self._data = official.absolute(data)
        self.default_split = "valid" if self._data == "builtin" else "dev"  # type: ignore[misc]
        self._backend = backend
        self._corpus = None if corpus is None else official.absolute(corpus)
        self._corpus_hash = corpus_hash
        self._aliases = aliases
        self._wikipedia: Pages | None = None
        if backend == "wikipedia":
            self._wikipedia = _wikipedia(cache, site, patience)
        self._question: Question | None = None
        self._pages: Pages | None = None
        self._begin("", None)

    # Tasks -------------------------------------------------------------------------------

    @property
    def questions(self) -> sources.Questions:
        """Where the questions come from; opened when first asked."""
        return sources.open_data(locate(self._data))

    def corpus(self, split: str) -> Corpus:
        """The local pages that questions of a split are played on.

        Raises:
            DataError: absent, or not those that ``corpus_hash`` names.
        """
        own = self._corpus is None
        found = self.questions.corpus(split) if own else store.open_corpus(str(self._corpus))
        if self._corpus_hash not in (None, found.fingerprint):
            raise DataError(
                f"The pages of {self._corpus or self._data} are others than this task set is "
                f"played on: their fingerprint is {found.fingerprint}, not {self._corpus_hash}.\n"
                "  To play on them all the same, as another task set: "
                f"--option corpus_hash={found.fingerprint}"
            )
        return found

    def task_ids(self, split: str) -> Sequence[str]:
        tasks = self.questions.tasks(split)
        if self._backend == "wikipedia":
            return list(tasks)
        return _playable(locate(self._data), split, self.corpus(split), self._corpus is None)

    def question(self, task_id: str) -> Question:
        """The question of a task, which can be played here.

        Raises:
            ConfigError: no such task. DataError: its data, or the pages it needs, are not here.
        """
        split = task_id.partition("/")[0]
        if self._data == "builtin" and task_id.count("/") and not sources.is_builtin(task_id):
            raise DataError(
                f"'{task_id}' is none of the built-in questions (their ids are like 'valid/b0').\n"
                "  Name the folder of the official ones with --data FOLDER (data=FOLDER), or set "
                f"HARNESS_DATA and say --data official.\n  {sources.REMEDY}"
            )
        tasks = self.questions.tasks(split)
        found = tasks.get(task_id)
        if found is None:
            raise ConfigError(unknown("HotPotQA task", task_id, tasks))
        if self._backend == "corpus":
            absent = _absent(found, self.corpus(split), self._corpus is None)
            if absent is not None:
                raise DataError(
                    f"'{task_id}' cannot be played on the local pages: {absent}.\n"
                    "  Play on Wikipedia (--option backend=wikipedia), or on the full contexts or "
                    f"dump (--option corpus=PATH).\n  {sources.REMEDY}"
                )
        return found

    def content_hash(self, task_id: str) -> str:
        """Of question and answer; the pages have ``corpus_hash``."""
        return sources.content_hash(self.question(task_id))

    def solution(self) -> Sequence[str]:
        """Search every supporting page, then give the answer."""
        if self._question is None:
            raise EnvError("HotPotQAEnv.solution() before reset()")
        titles = dict.fromkeys(title for title, _ in self._question.supporting)
        return [*(f"search[{title}]" for title in titles), f"finish[{self._question.answer}]"]

    @classmethod
    def task_sets(cls) -> Mapping[str, Callable[[], TaskSet]]:
        return TASK_SETS

    @classmethod
    def group(cls, task_id: str) -> str:
        return sources.group(task_id)

    @classmethod
    def keys(cls, task_id: str) -> tuple[str, ...]:
        """The group, and the pages that answer an official question, as far as they are known:
        those of the named task sets that come with it, of other questions where ``HOTPOTQA_DATA``
        or ``HARNESS_DATA`` names their files."""
        pages = gold_pages(task_id) or sources.gold_pages(task_id)
        return (cls.group(task_id), *((f"pages/{pages}",) if pages else ()))

    @classmethod
    def fetch(cls, target: Path) -> None:
        """Download the official questions into ``target`` (``fetch.fetch``)."""
        from harness_envs.hotpotqa.fetch import fetch

        fetch(target)

    # Play --------------------------------------------------------------------------------

    def start(self, task_id: str) -> tuple[str, Info]:
        question = self.question(task_id)
        self._pages = self._wikipedia or LocalPages(self.corpus(question.split))
        observation = f"Question: {question.question}"
        self._begin(observation, question)
        return observation, {"instruction": question.question, "task_type": question.type}

    def _begin(self, observation: str, question: Question | None) -> None:
        self._question = question
        self._observation = observation
        #: Text of the page that was found last.
        self.page: str | None = None
        self._lookup = Lookup()
        self._answer: str | None = None
        self._steps = 0

    def play(self, action: str) -> tuple[str, float, bool, Info]:
        if self._question is None:
            raise EnvError("HotPotQAEnv.step() before reset()")
        executed = action
        if self._aliases:  # before blanks are stripped, as in ReAct's loop
            executed = executed[:1].lower() + executed[1:]
        executed = executed.strip()
        invalid = False
        if self._answer is None:
            found = _ACTION.match(executed)
            verb, argument = found.groups() if found else ("", "")
            invalid = not self._execute(verb, argument, executed)
        info: Info = {"invalid_action": invalid, "answer": self._answer, "steps": self._steps}
        if executed != action.strip():
            info["executed"] = executed
        if self._answer is None:
            return self._observation, 0.0, False, info
        measures = self._measures(self._answer)
        score = measures["f1"]
        info |= {"success": bool(measures["em"]), "score": score, "measures": measures}
        return self._observation, measures["em"], True, info

    def _execute(self, verb: str, argument: str, action: str) -> bool:
        """Whether the action could be executed; what it shows is then ``_observation``."""
        if verb == "search":
            try:
                if not self._search(argument):
                    return False
            except Unsearchable:
                return False
        elif verb == "lookup":
            self._observation = self._lookup.find(argument, self.page)
        elif verb == "finish":
            self._answer = argument
            reward = int(self._measures(argument)["em"])
            self._observation = f"Episode finished, reward = {reward}\n"
        elif verb == "think":
            self._observation = reading.NOTHING_SAID
        else:
            self._observation = f"Invalid action: {action}"
        self._steps += 1
        return bool(verb)

    def _search(self, entity: str) -> bool:
        """Turn to a page, or show titles. False where the original raised: the observation stays,
        and of a page that could not be decoded the first part."""
        assert self._pages is not None
        from_web = self._backend == "wikipedia"
        for _ in range(_DEEPEST):
            answer = self._pages.search(entity)
            if answer.titles is not None:
                titles = list(answer.titles)
                if from_web:
                    try:
                        titles = list(map(reading.unescaped, titles))
                    except UnicodeError:
                        return False
                self._observation = reading.not_found(entity, titles)
                return True
            if any(_AMBIGUOUS in paragraph for paragraph in answer.paragraphs):
                entity = f"[{entity}]"
                continue
            self.page, whole = reading.page_text(answer.paragraphs, escapes=from_web)
            if whole:
                self._observation = reading.opening(self.page)
                self._lookup = Lookup()
            return whole
        return False

    def _measures(self, answer: str) -> dict[str, float]:
        assert self._question is not None
        gold = self._question.answer
        return {
            "em": float(exact_match(answer, gold)),
            "f1": float(f1_score(answer, gold).f1),
            "contains": float(contains(answer, gold)),
        }

    def close(self) -> None:
        if self._wikipedia is not None:
            self._wikipedia.close()


class LocalPages:
    """Searches answered by a corpus."""

    def __init__(self, corpus: Corpus) -> None:
        self._corpus = corpus

    def search(self, entity: str) -> Answer:
        page = self._corpus.find(entity)
        if page is None:
            return Answer(self._corpus.similar(entity))
        return Answer(None, page.paragraphs)

    def close(self) -> None:
        """A corpus is shared and stays open."""


def _wikipedia(cache: str | Path | None, site: str | None, patience: float) -> Pages:
    from harness_envs.hotpotqa.wikipedia import SITE, Wikipedia

    return Wikipedia(
        cache=None if cache is None else Path(cache), site=site or SITE, patience=patience
    )


def _absent(question: Question, corpus: Corpus, own: bool) -> str | None:
    """Why a question cannot be answered from these pages; None: it can, as far as is known."""
    if not question.supporting:
        # Pages that somebody named may well hold the answer; the data's own are known not to.
        return "the data hold no pages for it" if own else None
    titles = dict.fromkeys(title for title, _ in question.supporting)
    absent = [title for title in titles if corpus.find(title) is None]
    return f"'{absent[0]}', which supports the answer, is not among them" if absent else None


def _playable(data: str, split: str, corpus: Corpus, own: bool) -> Sequence[str]:
    with _LOCK:
        return _playable_once(data, split, corpus, own)


@cache
def _playable_once(data: str, split: str, corpus: Corpus, own: bool) -> Sequence[str]:
    tasks = sources.open_data(data).tasks(split)
    return tuple(id_ for id_, q in tasks.items() if _absent(q, corpus, own) is None)


def locate(data: str) -> str:
    """``data`` as a folder (``harness.official.locate``)."""
    return official.locate(data, "hotpotqa", "question files")
