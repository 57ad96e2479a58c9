"""ReAct's view of WebShop: how its published agents saw the shop and acted in it.

Rules from ``WebShop.ipynb`` of ysymyth/ReAct at 6bdb3a1: three products of a page are shown (all
ten can be clicked), no paging, names as on the buttons, ``think[...]`` is answered ``OK.``
Text enters addresses unquoted, so that some queries and options have no page: an empty answer.
"""

from __future__ import annotations

from harness_envs.webshop import pages
from harness_envs.webshop.browser import BASE, INVALID, Turn
from harness_envs.webshop.pages import Page
from harness_envs.webshop.site import Site, Unanswerable

SHOWN = 3
INVALID_TEXT = "Invalid action!"


class ReActBrowser:
    """One episode as ReAct's client plays it. ``session`` names it in addresses."""

    def __init__(self, site: Site, session: str) -> None:
        self._site = site
        self._session = session
        self.kind = "init"  # init | search | item | item_sub | end
        self.query = ""
        self.asin = ""
        self.asins: list[str] = []
        self.sub_page = ""
        self.options: dict[str, str] = {}
        #: Value -> option name, of the item page last seen.
        self.option_names: dict[str, str] = {}
        self._page: Page = ()
        self._text = ""
        self._load()

    @property
    def has_search_bar(self) -> bool:
        return self.kind == "init"

    @property
    def clickables(self) -> list[str]:
        """What a reader of the page could click, as written there."""
        kinds = ("button", "option")
        labels = [node.text for node in self._page if node.kind in kinds]
        if self.kind == "search":
            labels = [label for label in labels if label not in (pages.NEXT, pages.PREV)]
            labels += self.asins[:SHOWN]
        return list(dict.fromkeys(label for label in labels if label != "Search"))

    def observation(self, mode: pages.Mode = "text") -> str:
        """The last answer. There is one way of writing it, whatever ``mode`` says."""
        return self._text

    def act(self, action: str) -> Turn:
        """Execute ``search[..]``, ``click[..]``, ``think..``, ``reset``; else Invalid action!"""
        if action.startswith("think"):  # in brackets or not: the loop around the client answers
            self._text = "OK."
            return Turn()
        if self._is_idle(action):
            if self.kind != "end":  # nothing is bought twice
                self._load()
            self._text = self._view()
            return INVALID
        if not self._go(action):
            self._text = INVALID_TEXT
            return INVALID
        page = self._page
        turn = self._load()
        if self.kind == "item" and action[6:-1] in self.options.values():
            self._text = f"You have clicked {action[6:-1]}."
            self._page = self._page or page  # a reader goes on with the page seen
        return turn

    def _is_idle(self, action: str) -> bool:
        """Unknown buttons are refused where products or options can be clicked; elsewhere the
        client just shows its page again."""
        known = (pages.BUY, pages.BACK, pages.NEXT, pages.PREV, *pages.SUB_PAGES)
        clicks = action.startswith("click[") and action[6:-1] not in known
        return clicks and self.kind in ("init", "item_sub", "end")

    def _go(self, action: str) -> bool:
        """Move to where an action leads; False: it leads nowhere from here."""
        argument = action.partition("[")[2][:-1]
        if action == "reset":
            return self._move("init", self.kind)
        if action.startswith("search["):
            if self.kind != "init":
                return False
            self.kind, self.query, self.options = "search", argument, {}
            self.asins, self.option_names = [], {}
            return True
        return action.startswith("click[") and self._click(argument)

    def _click(self, label: str) -> bool:
        if label == pages.BUY:
            return self._move("end", "item")
        if label == pages.BACK:
            return self._move("init", "search", "item_sub", "item")
        if label == pages.NEXT:
            return False
        if label == pages.PREV:
            if self.kind == "item":
                self.options = {}
                return self._move("search", "item")
            return self._move("item", "item_sub")
        if label in pages.SUB_PAGES:
            self.sub_page = label if self.kind == "item" else self.sub_page
            return self._move("item_sub", "item")
        if self.kind == "search" and label in self.asins:
            self.asin = label
            return self._move("item", "search")
        if self.kind == "item" and label in self.option_names:
            self.options = {**self.options, self.option_names[label]: label}
            return True
        return False

    def _move(self, to: str, *allowed: str) -> bool:
        if self.kind not in allowed:
            return False
        self.kind = to
        return True

    def _load(self) -> Turn:
        """Fetch the page of the present place; where the server has none the client stays."""
        try:
            page, reward, parts = self._site.visit(self._path())
        except Unanswerable:
            self._page, self._text = (), ""
            return Turn(done=self.kind == "end", invalid=True)
        self._page = page
        self.asins = [node.text for node in page if node.kind == "product"] or self.asins
        names = {node.text: node.name for node in page if node.kind == "option"}
        self.option_names = names or self.option_names
        self._text = self._view()
        return Turn(reward, done=self.kind == "end", parts=parts)

    def _path(self) -> str:
        """The address of the present place, texts put in as they are."""
        if self.kind == "init":
            return f"/{self._session}"
        if self.kind == "search":
            path = f"/search_results/{self._session}/{self.query}/1"
        elif self.kind == "item":
            path = f"/item_page/{self._session}/{self.asin}/{self.query}/1/{self.options}"
        elif self.kind == "item_sub":
            place = f"/item_sub_page/{self._session}/{self.asin}/{self.query}/1"
            path = f"{place}/{self.sub_page}/{self.options}"
        else:
            path = f"/done/{self._session}/{self.asin}/{self.options}"
        return path.encode("utf-16", "surrogatepass").decode("utf-16", "replace")

    def _view(self) -> str:
        lines: list[str] = []
        plain = products = since_product = 0
        for kind, words, _ in self._page:
            if words == pages.SCORE:
                return f"{words}: {self._score()}"
            if not words.replace("\n", "").replace("\\n", "").replace(" ", ""):
                continue
            if kind == "button":
                lines.append(f"\n[{words}] ")
            elif kind == "option":
                # The client looks for the quoted value in the address it built.
                mark = f"'{words}'" in BASE + self._path()
                lines.append(f"[[{words}]]" if mark else f"[{words}]")
            elif kind == "product":
                lines.append(f"\n[{words}] " if products < SHOWN else "")
                products, since_product = products + 1, 0
            else:
                hidden = plain < 2 and self.kind != "init"
                hidden = hidden or (since_product <= 2 and products > SHOWN)
                lines.append("" if hidden else f"\n{words} ")
                plain += 1
            since_product += 1
        return _unescaped("".join(lines))

    def _score(self) -> str:
        texts = [node.text for node in self._page]
        return texts[texts.index(pages.SCORE) + 1]


def _unescaped(text: str) -> str:
    """Backslash escapes decoded, as the client does; text where that fails stays as it is."""
    try:
        return text.encode().decode("unicode-escape").encode("latin1").decode("utf-8")
    except UnicodeError:
        return text
