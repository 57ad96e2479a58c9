"""How ReAct evaluates on HotPotQA, as a preset. The other families do not play it in this form."""

from __future__ import annotations

from harness.protocol import Preset, Protocol

PROTOCOLS = {
    # for i in range(1, 8); not done then: finish[]; action[0].lower(); shuffle by Random(233).
    "react": Preset(
        Protocol(7, format_limit=None, last_action="finish[]", options={"aliases": True}),
        tasks="react-500",
        plays="500 of the 7,405 dev questions",
        grammar="`Thought i: ...` and `Action i: ...` of `Search[..]`, `Lookup[..]`, `Finish[..]`; "
        "the first letter may be a capital",
        invalid="answered `Invalid action: ...`, a step; after seven an empty answer is given",
        scoring="exact match of the normalised answer; F1 beside it",
        differs="a reply without an action costs a step; there the model is asked again for the "
        "action alone",
        source="ysymyth/ReAct at 6bdb3a1: hotpotqa.ipynb, wikienv.py, wrappers.py",
    ),
}
