"""What the WebShop expert says: one line that leads from what it saw to what it does.

    [what just happened]. [what is wanted, and what is known of it], so I <action>.

The parts vary in wording, chosen by a number that the caller gives; what is said does not vary.
The line repeats what the next decisions depend on (which wishes are met, open or failed, price
against limit, the product meant), because a small model reads its own recent lines best. Words and
prices are written as the pages write them.
"""

from __future__ import annotations

from collections.abc import Sequence

from harness_agents.expert.alfworld_words import Dice
from harness_agents.expert.webshop import Plan, Verdict, judge
from harness_agents.expert.webshop_belief import SUB_PAGES, Belief
from harness_agents.expert.webshop_request import Request

_SO = ("so I {}.", "so I {}.", "so now I {}.", "so next I {}.", "so I will {}.")


def say(request: Request, b: Belief, plan: Plan, number: int) -> str:
    """The reasoning line for a plan."""
    pick = Dice(number)
    news = _news(request, b, plan, pick)
    why = _why(request, b, plan, pick)
    line = f"{why}, {pick(*_SO).format(_act(b, plan, pick))}"
    return f"{news} {line[0].upper()}{line[1:]}".strip()


def listed(phrases: Sequence[str], joint: str = "and") -> str:
    """``["a", "b", "c"]`` -> ``"a, b and c"``."""
    *most, last = phrases
    return f"{', '.join(most)} {joint} {last}" if most else last


# What it does -----------------------------------------------------------------------------


def _act(b: Belief, plan: Plan, pick: Dice) -> str:
    asin = plan.verdict.asin if plan.verdict else ""
    if plan.aim == "search":
        return pick("search with these words", "search for that", "put these words in the search")
    if plan.aim == "open":
        return pick(f"open {asin}", f"look at {asin}", f"open {asin}", f"check {asin}")
    if plan.aim == "settle":
        return pick(f"open {asin} again", f"go back to {asin}", f"return to {asin}")
    if plan.aim == "next":
        return pick("turn to the next page", "look at the next page", "go on to the next page")
    if plan.aim == "back_page":
        return pick("turn the pages back", "go to its page") if b.results else "go back"
    if plan.aim == "features":
        return pick("read the features", "look at the features", "check the features")
    if plan.aim == "return":
        return pick("go back to the product", "return to the product", "go back to its page")
    if plan.aim == "leave":
        return pick("go back to the results", "return to the results", "go back to the list")
    if plan.aim == "choose":
        value = plan.option[1]
        return pick(f"choose {value}", f"pick {value}", f"click {value}", f"select {value}")
    if plan.aim == "buy":
        return pick("buy it", "buy it now", "buy this one", "take it")
    return pick("start over", "go back to the start")


# What just happened -----------------------------------------------------------------------


def _news(request: Request, b: Belief, plan: Plan, pick: Dice) -> str:
    if b.event in ("start", "restarted"):
        again = pick("I am at the start again.", "Back at the start.")
        return again if b.event == "restarted" else ""
    if b.event == "nothing":
        return _failure(b, pick)
    if b.page.kind == "results":
        return _results_news(request, b, pick)
    if b.page.kind == "sub" and b.asin:
        return _read_news(request, b, pick)
    if b.page.kind == "item" and b.asin:
        return _item_news(request, b, pick)
    return pick("I see no page of the shop.", "This is no page that I know.")


def _failure(b: Belief, pick: Dice) -> str:
    if not b.verb:
        return pick(
            "Nothing changed, an action must be search[...] or click[...].",
            "That was no valid action.",
            "The shop did not understand that.",
        )
    if b.verb == "click":
        return pick(
            f"Nothing changed, there is no {b.argument} to click here.",
            f"I can not click {b.argument} on this page.",
            f"This page has no {b.argument}.",
        )
    return pick("The search changed nothing.", "That search led to the same page.")


def _results_news(request: Request, b: Belief, pick: Dice) -> str:
    thing = request.thing or "products"
    if not b.page.products:
        return pick("This page is empty.", "No products are listed here.")
    if b.event == "back":
        last = b.left
        verdict = judge(request, b, last) if last in b.items else None
        if verdict and verdict.flawed:
            return pick("{} {}.", "The last one, {}, {}.").format(last, _flaw(request, b, verdict))
        return pick(f"Back at the list of {thing}.", "I am back at the results.")
    if b.event == "turned":
        number = b.page.number
        return pick(f"This is page {number}.", f"Page {number} lists more products.")
    return pick(
        f"The search lists {thing}.",
        f"These are the results for {thing}.",
        f"I see a list of {thing}.",
        "The results are here.",
    )


def _read_news(request: Request, b: Belief, pick: Dice) -> str:
    if b.argument not in SUB_PAGES and b.event != "read":
        return ""
    before = judge(request, _unread(b), b.asin)
    verdict = judge(request, b, b.asin)
    told = [a for a in verdict.found if a not in before.found]
    where = pick("The features", "Its features", "The bullets")
    if "features" not in b.read.get(b.asin, {}):
        where = pick(f"The {b.argument}", f"The {b.argument} page")
        return f"{where} {pick('does not help', 'says little')}."
    if verdict.missing:
        rest = listed(verdict.missing, "or")
        known = f" name {listed(told)} but" if told else ""
        return f"{where}{known} {pick('say nothing of', 'do not mention', 'have no')} {rest}."
    if told:
        return f"{where} {pick('name', 'mention', 'confirm', 'speak of')} {listed(told)}."
    return f"{where} {pick('tell nothing new', 'say nothing that I need')}."


def _unread(b: Belief) -> Belief:
    """The same shop before anything was read about the product shown."""
    return Belief(
        b.page,
        listings=b.listings,
        items=b.items,
        read={asin: texts for asin, texts in b.read.items() if asin != b.asin},
    )


def _item_news(request: Request, b: Belief, pick: Dice) -> str:
    if b.event == "chose":
        value = b.argument
        wanted = any(value == v for _, v in judge(request, b, b.asin).offered)
        if not wanted:
            return pick(f"I chose {value}, which was not asked.", f"But {value} is wrong.")
        return pick(f"Now {value} is chosen.", f"I chose {value}.", f"That sets {value}.")
    if b.event == "returned":
        return pick("I am back at the product.", "Back at its page.", f"{b.asin} again.")
    price = f"${b.page.low}"
    if request.cap is None:
        return pick(f"It costs {price}.", f"The price is {price}.")
    limit = f"{request.cap:.2f}"
    if b.page.low > request.cap:
        return pick(f"{price} is above {limit}.", f"It costs {price}, more than {limit}.")
    return pick(
        f"{price} is below {limit}.",
        f"It costs {price}, less than {limit}.",
        f"The price {price} is under {limit}.",
    )


# What it means for the next step ----------------------------------------------------------


def _why(request: Request, b: Belief, plan: Plan, pick: Dice) -> str:
    verdict = plan.verdict
    if plan.aim == "search":
        return _wish(request, pick) if b.event == "start" else _again(request, pick)
    if plan.aim == "restart" or verdict is None:
        return pick("nothing here helps", "I see nothing that fits here")
    if plan.aim in ("open", "settle"):
        return _opening(request, b, plan, verdict, pick)
    if plan.aim in ("next", "back_page"):
        if plan.aim == "next":
            return pick("nothing else here fits", "I see no other product that may fit here")
        return pick(f"{verdict.asin} was the best so far", f"I want {verdict.asin} after all")
    if plan.aim == "features":
        return _reading(request, verdict, pick)
    if plan.aim == "return":
        if verdict.flawed:
            return pick("this is not what I need", "that does not fit", "it is not the right one")
        return pick("it is what I need", "that fits", "this one is right")
    if plan.aim == "leave":
        return pick("it {}", "this one {}", "I see that it {}").format(_flaw(request, b, verdict))
    if plan.aim == "choose":
        return _choosing(plan, verdict, pick)
    return _buying(request, b, verdict, pick)


def _wish(request: Request, pick: Dice) -> str:
    """The instruction in short: the thing, its attributes, options and limit."""
    wishes = [*request.attributes, *(value for _, value in request.options)]
    thing = request.thing or "a product"
    if not wishes:
        return pick(f"I need {thing}", f"I want {thing}")
    limit = (
        ""
        if request.cap is None
        else pick(f" under {request.cap:.2f}", f" below {request.cap:.2f}", "")
    )
    return pick(
        f"I need {thing}{limit} with {listed(wishes)}",
        f"the wish is {thing}{limit}: {listed(wishes)}",
        f"I must find {thing}{limit}, and they need {listed(wishes)}",
        f"they want {thing}{limit}, {listed(wishes)}",
    )


def _again(request: Request, pick: Dice) -> str:
    thing = request.thing or "the product"
    return pick(f"I still need {thing}", f"I have to find {thing}", f"I must look for {thing}")


def _opening(request: Request, b: Belief, plan: Plan, verdict: Verdict, pick: Dice) -> str:
    listing = b.listings[verdict.asin]
    if plan.aim == "settle":
        if verdict.open and not verdict.flawed:
            return pick(f"I was not done with {verdict.asin}", "I left the last one too early")
        if not verdict.flawed:
            return pick(f"{verdict.asin} fits", f"I know that {verdict.asin} fits")
        return pick("it was the best so far", "nothing better is in reach", "no other is better")
    price = f"${listing.low}"
    if not verdict.affordable:
        return pick(f"the cheapest here costs {price}", f"nothing costs less than {price}")
    one = pick("the next one", "another one") if b.items else pick("one", "the first that may fit")
    if verdict.found:
        named = listed(verdict.found)
        return pick(
            f"{one} names {named} and costs {price}",
            f"{one} names {named} for {price}",
            f"{one} for {price} has {named} in its title",
        )
    return pick(f"{one} costs {price}", f"I see {one} for {price}", f"{one} may do for {price}")


def _reading(request: Request, verdict: Verdict, pick: Dice) -> str:
    rest = listed(verdict.open, "or")
    has = f"it has {listed([v for _, v in verdict.offered])} but " if verdict.offered else ""
    return pick(
        f"{has}the title does not say {rest}",
        f"{has}I do not know about {rest} yet",
        f"{has}I must make sure of {rest}",
        f"{has}the title says nothing of {rest}",
    )


def _choosing(plan: Plan, verdict: Verdict, pick: Dice) -> str:
    name, value = plan.option
    met = listed(verdict.found) if verdict.found else ""
    if verdict.flawed:
        return pick(f"I take what comes closest and need {value}", f"the {name} should be {value}")
    if met and not verdict.open:
        return pick(
            f"it has {met}, and I need {name} {value}",
            f"I saw {met}, and the {name} must be {value}",
            f"I need the {name} {value}",
        )
    return pick(f"I need the {name} {value}", f"the {name} must be {value}")


def _buying(request: Request, b: Belief, verdict: Verdict, pick: Dice) -> str:
    if verdict.flawed or verdict.open:
        return pick("it comes closest", "this is the best that I found", "no time is left for more")
    if b.event == "chose":
        return pick("all that was asked is chosen", "everything fits", "nothing is missing now")
    met = listed(verdict.found) if verdict.found else "what I need"
    return pick(f"it has {met}", f"I saw {met} and nothing must be chosen", "everything fits")


def _flaw(request: Request, b: Belief, verdict: Verdict) -> str:
    """What is wrong with a product, as the end of "it ..."."""
    if not verdict.affordable:
        return f"costs more than {request.cap:.2f}"
    if verdict.lacking:
        return f"is not sold in {listed([v for _, v in verdict.lacking], 'or')}"
    if verdict.missing:
        return f"says nothing of {listed(verdict.missing, 'or')}"
    return "is not the best"
