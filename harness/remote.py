"""An environment in a process of its own, for those that cannot share one (``shareable=False``)."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import traceback
from collections.abc import Sequence
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Any

from harness.env import Environment
from harness.errors import EnvError
from harness.types import Info


class RemoteEnvironment(Environment):
    """Stands for an environment that runs in a worker process; same calls, same answers.

    A worker that dies raises EnvError; ``close`` ends the process, also while it hangs.
    """

    def __init__(self, name: str, keywords: dict[str, Any]) -> None:
        super().__init__(reveal=bool(keywords.get("reveal", False)))
        here, there = socket.socketpair()
        # The user's own script is not imported again there, as multiprocessing would.
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__, str(there.fileno())],
            pass_fds=[there.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,  # what an environment prints is no result of the command
            start_new_session=True,  # an interrupt is the first process's to handle
            env={**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
        )
        there.close()
        self._pipe = Connection(here.detach())
        self._who = f"{name} worker"
        try:
            with suppress(OSError):  # of one that is dead already the answer tells
                self._pipe.send((name, keywords))
            self._answer()
        except EnvError:
            self.close()
            raise

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[str, Info]:
        result: tuple[str, Info] = self._call("reset", seed=seed, options=options)
        return result

    def step(self, action: str) -> tuple[str, float, bool, bool, Info]:
        result: tuple[str, float, bool, bool, Info] = self._call("step", action)
        return result

    def task_ids(self, split: str) -> Sequence[str]:
        result: Sequence[str] = self._call("task_ids", split)
        return result

    def content_hash(self, task_id: str) -> str:
        result: str = self._call("content_hash", task_id)
        return result

    def close(self) -> None:
        self._process.kill()  # it may hang, and keeps nothing
        self._process.wait()
        self._pipe.close()

    def _call(self, method: str, *args: Any, **keywords: Any) -> Any:
        try:
            self._pipe.send((method, args, keywords))
        except (BrokenPipeError, OSError) as error:
            raise self._died() from error
        return self._answer()

    def _answer(self) -> Any:
        try:
            fine, value = self._pipe.recv()
        except (EOFError, OSError) as error:
            raise self._died() from error
        if not fine:
            raise EnvError(f"{self._who}: {value}")
        return value

    def _died(self) -> EnvError:
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=1)
        return EnvError(f"{self._who} died (exit status {self._process.returncode})")


def _serve(pipe: Connection) -> None:
    from harness import registry

    name, keywords = pipe.recv()
    try:
        env = registry.env_class(name)(**keywords)
    except Exception as error:
        pipe.send((False, f"{type(error).__name__}: {error}"))
        return
    pipe.send((True, None))
    while True:
        try:
            method, args, kw = pipe.recv()
        except EOFError:
            return
        try:
            answer = (True, getattr(env, method)(*args, **kw))
        except Exception as error:
            tail = "".join(traceback.format_exception(error)[-3:])
            answer = (False, f"{type(error).__name__}: {error}\n{tail}")
        pipe.send(answer)


if __name__ == "__main__":
    _serve(Connection(int(sys.argv[1])))
