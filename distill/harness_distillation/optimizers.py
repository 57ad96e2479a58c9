"""What takes a step: AdamW for everything, or Muon for the matrices inside the layers.

Muon (Jordan et al. 2024; scaled to AdamW's update as in "Muon is scalable for LLM training", Liu et
al. 2025, so that one learning rate serves both) is PyTorch's; only the joining is here.
"""

from __future__ import annotations

from typing import Any

import torch

from harness_distillation.recipe import Optim


class Joined:
    """Two optimizers behind the methods of one. States are numbered through."""

    def __init__(self, *parts: torch.optim.Optimizer) -> None:
        self.parts = parts

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        return [group for part in self.parts for group in part.param_groups]

    def step(self) -> None:
        for part in self.parts:
            part.step()

    def zero_grad(self, set_to_none: bool = True) -> None:
        for part in self.parts:
            part.zero_grad(set_to_none=set_to_none)

    def state_dict(self) -> dict[str, Any]:
        state: dict[int, Any] = {}
        for part, first in zip(self.parts, self._firsts(), strict=True):
            state |= {first + i: v for i, v in part.state_dict()["state"].items()}
        return {"state": state, "param_groups": []}

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        for part, first in zip(self.parts, self._firsts(), strict=True):
            blank = part.state_dict()
            size = sum(len(group["params"]) for group in blank["param_groups"])
            state = {i - first: v for i, v in saved["state"].items() if first <= i < first + size}
            part.load_state_dict({"state": state, "param_groups": blank["param_groups"]})

    def _firsts(self) -> list[int]:
        sizes = [sum(len(g["params"]) for g in part.param_groups) for part in self.parts]
        return [sum(sizes[:i]) for i in range(len(sizes))]


def build(model: Any, optim: Optim) -> torch.optim.Optimizer | Joined:
    """The optimizer of a recipe. Matrices decay, vectors (norms, biases) do not; Muon leaves the
    embeddings and the head to AdamW."""
    muon: list[torch.nn.Parameter] = []
    if optim.optimizer == "muon":
        outer = {id(m.weight) for m in model.modules() if isinstance(m, torch.nn.Embedding)}
        outer.add(id(model.get_output_embeddings().weight))
        muon = [p for p in model.parameters() if p.dim() == 2 and id(p) not in outer]
    taken = {id(p) for p in muon}
    rest = [p for p in model.parameters() if id(p) not in taken]
    adamw = torch.optim.AdamW(
        [
            {"params": [p for p in rest if p.dim() >= 2], "weight_decay": optim.weight_decay},
            {"params": [p for p in rest if p.dim() < 2], "weight_decay": 0.0},
        ],
        lr=optim.lr,
        betas=optim.betas,
        fused=True,
    )
    if not muon:
        return adamw
    return Joined(
        adamw,
        torch.optim.Muon(
            muon, lr=optim.lr, weight_decay=optim.weight_decay, adjust_lr_fn="match_rms_adamw"
        ),
    )
