"""The ReAct policy over any backend, its prompts, its configs, and where weights are looked for."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from harness_agents.checkpoints import locate
from harness_agents.react import ReActPolicy, read_prompts
from hypothesis import given
from hypothesis import strategies as st

from harness import api, registry
from harness.config import AgentConfig
from harness.errors import AgentError, ConfigError, HarnessError, MissingDependency
from harness.policy import Decoding, Policy
from harness.transcript import Segment, join, parse, render
from harness.types import Completion, Decision, Step

#: Rows of the paper's Tables 3 and 4, as their first column names them, and the agent of each.
PAPER = {
    "teacher-1.5b": ("Teacher (GPT)", 3),
    **{f"ours-{n}m": (f"Ours ({n}M)", 3) for n in (120, 340, 760)},
    **{f"token-{n}m": (f"Token-{n}M", 3) for n in (120, 340, 760)},
    "teacher-opt-13b": ("Teacher (OPT-13B)", 4),
    **{f"ours-opt-{n}b": (f"Ours (OPT-{n}B)", 4) for n in ("1.3", "2.7", "6.7")},
    **{f"token-opt-{n}b": (f"Token-OPT-{n}B", 4) for n in ("1.3", "2.7", "6.7")},
    "teacher-llama-13b": ("Teacher (LLaMA-13B)", 4),
    "ours-llama-7b": ("Ours (LLaMA-7B)", 4),
    "token-llama-7b": ("Token-LLaMA-7B", 4),
}
OTHERS = (
    "teacher-tiny", "ours-tiny", "token-tiny",
    "smollm2-135m", "smollm2-135m-fewshot",
)  # fmt: skip


class Recital:
    """A backend that answers each step from a list and remembers what it was asked."""

    def __init__(self, *replies: str) -> None:
        self.replies = replies
        self.asked: list[tuple[str, Decoding, int]] = []
        self.closed = False

    def complete(
        self, blocks: Sequence[Sequence[Segment]], decoding: Decoding, seed: int
    ) -> Completion:
        self.asked.append(("".join(join(b) for b in blocks), decoding, seed))
        return Completion(self.replies[(len(blocks) - 2) % len(self.replies)])

    def describe(self) -> dict[str, Any]:
        return {"backend": "recital"}

    def close(self) -> None:
        self.closed = True


def test_a_decision_is_the_parsed_reply_to_the_rendered_transcript() -> None:
    backend = Recital("Reasoning: a pear.\nAction: say pear\n")
    policy = ReActPolicy(backend=backend, temperature=0.2, max_new_tokens=7)
    assert isinstance(policy, Policy)
    history = [Step("Say fig.", Decision("A fig.", "say fig"))]
    found = policy.act("say {it}", history, "Say pear.", {"sampling_seed": 11})
    assert backend.asked == [
        (
            "Task: say {it}\nObservation: Say fig.\nReasoning: A fig.\nAction: say fig\n"
            "Observation: Say pear.\n",
            Decoding(0.2, 1.0, 7),
            11,
        )
    ]
    assert (found.reasoning, found.action) == ("a pear.", "say pear")
    assert found.completion == Completion("Reasoning: a pear.\nAction: say pear\n")
    policy.close()
    assert backend.closed


@given(st.lists(st.text(max_size=40), min_size=1, max_size=5), st.text(max_size=40))
def test_whatever_a_model_writes_is_a_decision_and_its_prompt_a_prefix_of_the_next(
    replies: list[str], observation: str
) -> None:
    backend = Recital(*replies)
    policy = ReActPolicy(backend=backend)
    history: list[Step] = []
    for _ in range(len(replies) + 1):
        decision = policy.act("x", history, observation, {})
        assert decision == parse(decision.completion.text, decision.completion)  # type: ignore[union-attr]
        history.append(Step(observation, decision))
    texts = [text for text, _, _ in backend.asked]
    whole = "".join(join(b) for b in render("Task: x\n", history))
    for earlier, later in zip(texts, [*texts[1:], whole], strict=True):
        assert later.startswith(earlier)


def test_prompts_hold_the_task_and_belong_to_their_environment(tmp_path: Path) -> None:
    for name in ("zero-shot", "few-shot"):
        texts = read_prompts(name)
        assert "alfworld" in texts
        for text in texts.values():
            assert text.endswith("Task: {instruction}\n")
        backend = Recital("Action: look\n")
        policy = ReActPolicy(backend=backend, prompt=name)
        policy.act("put a mug in desk.", [], "A room.", {"env": "alfworld"})
        assert backend.asked[0][0].endswith("Task: put a mug in desk.\nObservation: A room.\n")
        with pytest.raises(AgentError, match="no text for environment 'chess', only for alfworld"):
            policy.act("win", [], "A board.", {"env": "chess"})
    own = tmp_path / "own.txt"
    own.write_text("Win.\nTask: {instruction}\n", encoding="utf-8")
    backend = Recital("Action: e4\n")
    ReActPolicy(backend=backend, prompt=str(own)).act("win", [], "A board.", {"env": "chess"})
    assert backend.asked[0][0] == "Win.\nTask: win\nObservation: A board.\n"


def test_the_shown_examples_are_whole_decisions() -> None:
    """Each line pair of the exemplars parses to an action of ALFWorld's grammar."""
    text = read_prompts("few-shot")["alfworld"]
    _, *turns = re.split(r"^Observation: ", text, flags=re.MULTILINE)
    actions = [parse(turn[turn.index("Reasoning:") :]).action for turn in turns]
    assert len(actions) > 15
    grammar = r"(go to|open|use) \w+ \d+|take \w+ \d+ from \w+ \d+|(move) \w+ \d+ to \w+ \d+"
    grammar += r"|heat \w+ \d+ with \w+ \d+"
    for action in actions:
        assert re.fullmatch(grammar, action or "")


def test_a_prompt_that_is_not_utf_8_is_named(tmp_path: Path) -> None:
    own = tmp_path / "own.txt"
    own.write_bytes("\ufeffSay “go”.".encode())  # a mark that some editors write is no part of it
    assert read_prompts(str(own)) == {"": "Say “go”."}
    own.write_text("Say “go”.", encoding="utf-16")
    with pytest.raises(ConfigError, match=r"own\.txt: not UTF-8 .*save it as UTF-8"):
        read_prompts(str(own))


def test_describe_names_prompt_and_decoding() -> None:
    one = ReActPolicy(backend=Recital(""), prompt="zero-shot", top_p=0.9).describe()
    two = ReActPolicy(backend=Recital(""), prompt="few-shot", top_p=0.9).describe()
    assert one["decoding"] == {"temperature": 0.0, "top_p": 0.9, "max_new_tokens": 96}
    assert (one["prompt"], one["backend"]) == ("zero-shot", "recital")
    assert one["prompt_sha256"] != two["prompt_sha256"]
    own = [ReActPolicy(backend=Recital(""), header=f"{h}: {{instruction}}\n") for h in "ab"]
    assert own[0].describe()["prompt_sha256"] != own[1].describe()["prompt_sha256"]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"prompt": "zero-shoot"}, "Did you mean 'zero-shot'"),
        ({"prompt": "zero-shot", "header": "Task: {instruction}\n"}, "not both"),
        ({"header": "Task: {instruction}"}, "end in a newline"),
        ({"header": "Task:\n"}, "must contain '{instruction}'"),
        ({"temperature": -1.0}, "'temperature'"),
        ({"temperature": float("nan")}, "'temperature'"),
        ({"top_p": 0.0}, "'top_p'"),
        ({"max_new_tokens": 0}, "'max_new_tokens'"),
        ({"backend": "hg", "checkpoint": "x"}, "Unknown backend 'hg'. Did you mean 'hf'"),
        ({"backend": "vlm", "window": 9}, "Did you mean 'vllm'"),
        ({"backend": "hf"}, "needs 'checkpoint'"),
        ({"backend": "hf", "checkpoint": "./nowhere"}, "No checkpoint folder"),
        ({"backend": "hf", "checkpoint": "x", "download": True}, "are for 'hub:owner/name'"),
        ({"backend": "vllm"}, "needs 'checkpoint'"),
        ({"backend": "vllm", "checkpoint": "x", "copies": 2}, "'copies': not for this backend"),
        ({"backend": "hf", "checkpoint": "x", "engine": {}}, "goes with backend = 'vllm'"),
        ({"window": 512, "chat": True}, "'window', 'chat': not for this backend"),
    ],
)
def test_options_that_cannot_be_used_are_refused(options: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(says)):
        ReActPolicy(**{"backend": Recital(""), **options})


def test_vllm_is_asked_for_by_its_extra_and_given_what_is_its_own() -> None:
    pytest.importorskip("torch")
    from harness_agents.backends.vllm import VLLMBackend

    found = locate("package:ours-tiny")
    for options, says in (
        ({"engine": {"seed": 3, "model": "x"}}, "model, seed: set by the backend"),
        ({"dtype": "float8"}, "Unknown dtype 'float8'"),
        ({"batch_size": 0}, "'batch_size' must be at least 1"),
    ):
        with pytest.raises(ConfigError, match=re.escape(says)):
            VLLMBackend(found, **options)
    if importlib.util.find_spec("vllm") is None:
        with pytest.raises(MissingDependency, match=re.escape("distill-harness[vllm]")):
            ReActPolicy(backend="vllm", checkpoint="package:ours-tiny")
        why = ReActPolicy.missing(backend="vllm", checkpoint="package:ours-tiny")
        assert why is not None
        assert "distill-harness[vllm]" in why


def test_a_misspelt_option_of_a_config_is_refused() -> None:
    with pytest.raises(ConfigError, match="Did you mean 'temperature'"):
        registry.build_policy(AgentConfig("x", "react", options={"temprature": 0.2}))


def test_every_row_of_the_papers_tables_has_its_config() -> None:
    configs = registry.agent_configs()
    for name, (row, table) in PAPER.items():
        description = configs[name].description
        assert f"row '{row}' of the paper's Table {table}" in description
        assert configs[name].role == ("teacher" if "teacher" in name else "student")
        assert configs[name].options["checkpoint"] == name
    folder = Path(str(files("harness_agents") / "configs"))
    react = {p.stem for p in folder.glob("*.toml") if configs[p.stem].policy == "react"}
    assert react == {*PAPER, *OTHERS}
    takes = set(ReActPolicy.__init__.__kwdefaults__)
    for name in react:
        assert set(configs[name].options) <= takes


@pytest.mark.parametrize("name", sorted(PAPER))
def test_missing_weights_say_where_they_were_looked_for_and_how_to_get_them(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HARNESS_MODELS", str(tmp_path))
    config = registry.agent_config(name)
    with pytest.raises(ConfigError) as caught:
        registry.build_policy(config)
    text = str(caught.value)
    assert str(tmp_path / name) in text
    trained = f"Train them: harness distill {name} " in text
    assert trained == (name in registry.recipe_names())
    assert trained or "tokenizer.json" in text
    assert re.search(r"GPUs? .*hours", text)
    shipped = files("harness_agents") / "weights" / "ours-tiny"
    assert ("--agent ours-tiny" in text) == shipped.is_dir()


def test_notes_tell_the_method_that_weights_were_trained_with(tmp_path: Path) -> None:
    methods = {
        "teacher-tiny": "sft", "token-tiny": "kd", "ours-tiny": "sad"
    }  # fmt: skip
    for name, method in methods.items():
        assert locate(f"package:{name}").settings.method == method
    shipped = locate("package:ours-tiny").folder
    for file in shipped.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    for notes in ("{}", '{"recipe": "a text"}', '{"recipe": {"objective": {"name": 3}}}'):
        (tmp_path / "harness.json").write_text(notes)
        assert locate(str(tmp_path)).settings.method is None


def test_named_models_are_looked_up_in_the_models_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "models" / "ours-120m"
    folder.mkdir(parents=True)
    for file in ("config.json", "tokenizer.json", "model.safetensors"):
        (folder / file).write_text("{}")
    monkeypatch.delenv("HARNESS_MODELS", raising=False)
    monkeypatch.chdir(tmp_path)
    assert locate("ours-120m").folder == folder
    with pytest.raises(ConfigError, match="set HARNESS_MODELS"):
        locate("ours-340m")
    monkeypatch.setenv("HARNESS_MODELS", str(tmp_path / "models"))
    monkeypatch.chdir("/")
    assert locate("ours-120m").folder == folder
    assert locate(str(folder)).settings.header == "Task: {instruction}\n"


def test_missing_tells_without_loading(tmp_path: Path) -> None:
    assert "checkpoint" in (ReActPolicy.missing() or "")
    assert "No checkpoint folder" in (ReActPolicy.missing(checkpoint=str(tmp_path / "no")) or "")
    assert ReActPolicy.missing(backend=Recital("")) is None
    for name in PAPER:
        config = registry.agent_config(name)
        why = registry.missing(config)
        if why is not None:
            with pytest.raises(HarnessError) as caught:
                registry.build_policy(config)
            assert str(caught.value) == why or "not installed" in why


def test_what_will_be_downloaded_is_not_missing() -> None:
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    assert ReActPolicy.missing(checkpoint="hub:no/such", download=True) is None
    assert "cannot be had" in (ReActPolicy.missing(checkpoint="hub:no/such") or "")


def test_another_way_to_decode_is_another_agent() -> None:
    plain = api.plan("ours-tiny", "alfworld", tasks="builtin-dev[:2]")
    other = api.plan("ours-tiny", "alfworld", tasks="builtin-dev[:2]", decode="admissible")
    assert (plain.agent.name, other.agent.name) == ("ours-tiny", "ours-tiny+admissible")
    assert other.agent.options == {**plain.agent.options, "decode": "admissible"}
    assert other.task_set_hash == plain.task_set_hash
    assert api.plan("ours-tiny", "alfworld", decode="free").agent == plain.agent
    both = api.plan("ours-tiny", "alfworld", decode="admissible", temperature=0.2, attempts=2)
    assert both.agent.name == "ours-tiny+admissible+t0.2"
    assert both.agent.options["temperature"] == 0.2
    assert api.plan("ours-tiny", "alfworld", temperature=0.0).agent == plain.agent
    close = api.plan("ours-tiny", "alfworld", temperature=0.2000001)
    assert close.agent.name == "ours-tiny+t0.2000001"
    assert [registry.option(plain.agent, k) for k in ("temperature", "decode", "no")] == [
        0.0, "free", None,
    ]  # fmt: skip
    with pytest.raises(ConfigError, match=r"show_actions = True.*hotpotqa lists none"):
        api.evaluate(ReActPolicy(backend=Recital(""), show_actions=True), "hotpotqa")
    with pytest.raises(ConfigError, match="--temperature is for agents that a language model"):
        api.plan("expert", "alfworld", temperature=0.2)
    with pytest.raises(ConfigError, match="'temperature' is of an agent's config"):
        api.evaluate(ReActPolicy(backend=Recital("")), "alfworld", temperature=0.2)
    with pytest.raises(ConfigError, match="hotpotqa lists none: its actions are free text"):
        api.plan("ours-tiny", "hotpotqa", decode="admissible")
    with pytest.raises(ConfigError, match="a policy that is given has its own"):
        api.evaluate(ReActPolicy(backend=Recital("")), "alfworld", decode="admissible")


def test_admissible_actions_are_shown_behind_the_newest_observation_alone() -> None:
    backend = Recital("Action: say pear\n")
    policy = ReActPolicy(backend=backend, show_actions=True)
    info = {"admissible_actions": ["say fig", "say pear"]}
    decision = policy.act("x", [], "Say pear.", info)
    policy.act("x", [Step("Say pear.", decision)], "No.", {"admissible_actions": []})
    assert backend.asked[0][0].endswith(
        "Observation: Say pear.\nAdmissible actions: say fig, say pear\n"
    )
    assert backend.asked[1][0].endswith("Say pear.\nAction: say pear\nObservation: No.\n")
    assert policy.describe()["show_actions"] is True
    with pytest.raises(ConfigError, match="Recital can't, the local backend 'hf' can"):
        ReActPolicy(backend=backend, decode="admissible")
