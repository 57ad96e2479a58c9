"""ALFWorld itself, on TextWorld, behind the same interface as ``FastEngine``.

It runs in a process of its own (``textworld_worker``): the original is not thread-safe, prints to
standard output, overwrites ``sys.argv``, and loads 34 MB of C++ for each live environment.
"""

from __future__ import annotations

import importlib.util
import os
import select
import subprocess
import sys
import tempfile
import time
from typing import IO

import msgspec

from harness.errors import EnvError, MissingDependency
from harness_envs.alfworld.game import Game

#: Seconds an answer may take. The slowest recorded start of an official game took 11 s.
TIMEOUT = 180.0


class Request(msgspec.Struct):
    """To the worker: a game to start, or a command to execute."""

    game: Game | None = None
    command: str = ""


class Reply(msgspec.Struct):
    """From the worker: the state after the request, or what went wrong."""

    observation: str = ""
    admissible: list[str] = []
    won: bool = False
    error: str | None = None


class TextWorldEngine:
    """Plays one game at a time in a worker process, started at the first reset.

    ``timeout``: seconds after which a silent worker is ended and EnvError raised. ``memoise``:
    translate a problem once instead of at each of TextWorld's four requests for one start.
    """

    won = False

    def __init__(self, *, timeout: float = TIMEOUT, memoise: bool = True) -> None:
        # First of all: one that is refused is closed too.
        self._process: subprocess.Popen[bytes] | None = None
        self._log: IO[bytes] | None = None
        for module in ("textworld", "alfworld", "fast_downward"):
            if importlib.util.find_spec(module) is None:
                raise MissingDependency(module, "textworld", "ALFWorld's engine 'textworld'")
        self._timeout = timeout
        self._memoise = memoise
        self._game_id = ""

    def __getstate__(self) -> object:
        raise EnvError(
            "The engine 'textworld' plays in a process, which cannot be copied. Play with "
            "engine='fast', or begin the game anew and give it the same actions."
        )

    @property
    def pid(self) -> int | None:
        """Process id of the worker, None when there is none."""
        return self._process.pid if self._process else None

    def reset(self, game: Game) -> tuple[str, list[str]]:
        self._game_id = game.id
        if self._process is None:
            self._start()
        reply = self._ask(Request(game=game))
        return reply.observation, reply.admissible

    def step(self, command: str) -> tuple[str, list[str], bool]:
        if self._process is None:
            raise EnvError("ALFWorld engine 'textworld': step() without a running game; reset().")
        reply = self._ask(Request(command=command))
        return reply.observation, reply.admissible, reply.won

    def close(self) -> None:
        """End the worker; a later reset starts another."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    pipe.close()
        if self._log is not None:
            self._log.close()
            self._log = None

    def __del__(self) -> None:
        self.close()

    def _start(self) -> None:
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 (closed in close())
        options = [] if self._memoise else ["--no-memoise"]
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "harness_envs.alfworld.textworld_worker", *options],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            # Importing alfworld makes this folder, in the home directory when it is not set.
            env={**os.environ, "ALFWORLD_DATA": tempfile.gettempdir()},
            bufsize=0,
        )

    def _ask(self, request: Request) -> Reply:
        assert self._process is not None
        assert self._process.stdin is not None
        try:
            _write_all(self._process.stdin.fileno(), msgspec.json.encode(request) + b"\n")
            raw = self._read_line()
        except (BrokenPipeError, EOFError):
            raise self._failure("its worker process died") from None
        except TimeoutError:
            raise self._failure(f"its worker process was silent for {self._timeout:g} s") from None
        except BaseException:
            # Interrupted between question and answer: the worker is out of step, so end it.
            self.close()
            raise
        reply = msgspec.json.decode(raw, type=Reply)
        if reply.error is not None:
            raise self._failure(reply.error)
        self.won = reply.won
        return reply

    def _read_line(self) -> bytes:
        """The next line of the worker. Raises EOFError, TimeoutError."""
        assert self._process is not None
        assert self._process.stdout is not None
        pipe = self._process.stdout.fileno()
        poll = select.poll()
        poll.register(pipe, select.POLLIN)
        end = time.monotonic() + self._timeout
        parts: list[bytes] = []
        while not parts or not parts[-1].endswith(b"\n"):
            if not poll.poll(max(0.0, end - time.monotonic()) * 1000):
                raise TimeoutError
            part = os.read(pipe, 1 << 16)
            if not part:
                raise EOFError
            parts.append(part)
        return b"".join(parts)

    def _failure(self, what: str) -> EnvError:
        """End the worker and say what happened, with the last lines it wrote."""
        last = ""
        if self._log is not None:
            self._log.seek(0)
            last = self._log.read().decode(errors="replace").strip()[-2000:]
        self.close()
        text = f"ALFWorld engine 'textworld', game '{self._game_id}': {what}."
        return EnvError(text + (f"\n  Its last words:\n{last}" if last else ""))


def _write_all(pipe: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(pipe, view) :]
