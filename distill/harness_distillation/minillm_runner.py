"""MiniLLM's training (Gu et al., ICLR 2024: reverse KL by policy gradient) with TRL's trainer.

    ENVIRONMENT/bin/python minillm_runner.py JOB.json

Runs in an environment of its own (``minillm``) and imports nothing of the harness: JOB.json names
checkpoint folders of student and teacher, a file of prompts as token ids, and every number.

TRL 0.27's trainer is corrected in four places: prompts keep their ids instead of being tokenised
as text; padding behind a reply enters neither loss (its mask of labels is never -100); the
advantage is a number, not a way for gradients; and the single-step term is a mean over the whole
step, however many micro-batches make it.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
import threading
import time
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    StoppingCriteria,
    StoppingCriteriaList,
    TrainerCallback,
)
from transformers.trainer_utils import get_last_checkpoint
from transformers.utils.logging import disable_progress_bar
from trl.experimental.minillm import MiniLLMConfig, MiniLLMTrainer

#: Where a reply ends: its first action line.
ACTED = re.compile(r"^[ \t]*(?:Action|Answer)[ \t]*:[^\n]*\n", re.MULTILINE)


class Ends(StoppingCriteria):  # type: ignore[misc]
    """Stops each row behind its action line or EOS, and keeps how long its reply is."""

    def __init__(self, tokenizer: Any, start: int) -> None:
        self.tokenizer, self.start = tokenizer, start
        self.lengths: list[int | None] = []

    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
        replies = input_ids[:, self.start :]
        self.lengths = self.lengths or [None] * len(replies)
        for i, reply in enumerate(replies):
            ended = int(reply[-1]) == self.tokenizer.eos_token_id
            if self.lengths[i] is None and (ended or ACTED.search(self.tokenizer.decode(reply))):
                self.lengths[i] = len(reply)
        return torch.tensor([n is not None for n in self.lengths], device=input_ids.device)


class Trainer(MiniLLMTrainer):  # type: ignore[misc]
    """TRL's MiniLLM, corrected (module docstring); micro-batches are of one reply."""

    def _generate_single_turn(self, prompts: list[str]) -> tuple[Any, Any, None, dict[str, Any]]:
        ids = [[int(i) for i in prompt.split()] for prompt in prompts]
        longest = max(map(len, ids))
        pad = self.processing_class.pad_token_id
        rows = torch.tensor([[pad] * (longest - len(i)) + i for i in ids])
        mask = torch.tensor([[0] * (longest - len(i)) + [1] * len(i) for i in ids])
        device = self.accelerator.device
        ends = Ends(self.processing_class, longest)
        with torch.no_grad():
            whole = self.accelerator.unwrap_model(self.model).generate(
                input_ids=rows.to(device),
                attention_mask=mask.to(device),
                generation_config=self.generation_config,
                stopping_criteria=StoppingCriteriaList([ends]),
                disable_compile=True,
            )
        replies = [
            row[longest:][:length].tolist() for row, length in zip(whole, ends.lengths, strict=True)
        ]
        return ids, replies, None, {}

    def compute_loss(self, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        prompt, reply = (int(inputs[f"{side}_mask"].sum()) for side in ("prompt", "completion"))
        for key in ("prompt_ids", "prompt_mask"):  # padded in front
            inputs[key] = inputs[key][:, inputs[key].shape[1] - prompt :]
        for key in ("completion_ids", "completion_mask"):
            inputs[key] = inputs[key][:, :reply]
        return super().compute_loss(model, inputs, *args, **kwargs)

    def _compute_advantage(
        self, student_log_probs_on_labels: torch.Tensor, *args: Any, **kwargs: Any
    ) -> Any:
        return super()._compute_advantage(student_log_probs_on_labels.detach(), *args, **kwargs)

    def _single_step_decomposition_loss(self, *args: Any, **kwargs: Any) -> Any:
        whole = super()._single_step_decomposition_loss(*args, **kwargs)
        return whole / self.current_gradient_accumulation_steps


class Limit(TrainerCallback):  # type: ignore[misc]
    """Ends the training, with a checkpoint, ``minutes`` after its begin; None: never."""

    def __init__(self, minutes: float | None) -> None:
        self.minutes, self.begun = minutes, time.monotonic()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
        late = self.minutes is not None and time.monotonic() - self.begun >= 60 * self.minutes
        if late and state.global_step < state.max_steps:
            control.should_save = control.should_training_stop = True
        return control


class Log(TrainerCallback):  # type: ignore[misc]
    """A line a step, as TRL tells it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        line = {"step": state.global_step, **{k: v for k, v in (logs or {}).items() if v == v}}
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")


def end_with_parent() -> None:
    """End when stdin does: a pipe that whoever started us holds open as long as it lives."""

    def watch() -> None:
        os.read(0, 1)  # not through sys.stdin, whose lock would be missed at our own end
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def main(path: Path) -> None:
    end_with_parent()
    job = json.loads(path.read_text(encoding="utf-8"))
    torch.set_num_threads(job["threads"])
    disable_progress_bar()
    tokenizer = AutoTokenizer.from_pretrained(job["student"])
    tokenizer.padding_side = "left"
    models = [
        AutoModelForCausalLM.from_pretrained(job[side], dtype=torch.float32)
        for side in ("student", "teacher")
    ]
    prompts = [json.loads(line) for line in Path(job["prompts"]).read_text().splitlines()]
    out = Path(job["out"])
    config = MiniLLMConfig(
        output_dir=str(out),
        seed=job["seed"],
        max_steps=job["steps"],
        per_device_train_batch_size=1,
        gradient_accumulation_steps=job["rows"],
        learning_rate=job["lr"],
        lr_scheduler_type="cosine_with_min_lr",
        lr_scheduler_kwargs={"min_lr_rate": job["min_lr"]},
        warmup_steps=job["warmup"],
        adam_beta1=job["betas"][0],
        adam_beta2=job["betas"][1],
        weight_decay=job["weight_decay"],
        max_grad_norm=job["clip"],
        bf16=job["bf16"],
        gradient_checkpointing=False,
        max_completion_length=job["max_new_tokens"],
        temperature=1.0,
        kd_temperature=job["kd_temperature"],
        num_generations=1,
        beta=0.0,
        loss_type="grpo",
        shuffle_dataset=False,
        gamma=1.0,
        length_normalization=True,
        single_step_decomposition=True,
        logging_steps=1,
        save_steps=max(1, job["steps"] // 10),
        save_total_limit=2,
        report_to=[],
        disable_tqdm=True,
        use_cpu=job["use_cpu"],
    )
    trainer = Trainer(
        model=models[0],
        teacher_model=models[1],
        args=config,
        train_dataset=Dataset.from_list([{"prompt": " ".join(map(str, ids))} for ids in prompts]),
        processing_class=tokenizer,
        callbacks=[Log(Path(job["log"])), Limit(job["max_minutes"])],
    )
    for torn in out.glob("checkpoint-*"):  # the state is what is written last
        if not (torn / "trainer_state.json").is_file():
            shutil.rmtree(torn)
    last = get_last_checkpoint(str(out)) if out.is_dir() else None
    trainer.train(resume_from_checkpoint=last)
    if trainer.state.global_step == job["steps"]:
        trainer.save_model(str(out / ".student"))
        shutil.rmtree(out / "student", ignore_errors=True)
        (out / ".student").rename(out / "student")  # whole, or not there


if __name__ == "__main__":
    main(Path(sys.argv[1]))
