"""``Copies``: the local backend once a core, so that one core's work is not all of a machine's.

A model of some millions of parameters keeps one core busy and gives a second one little to do: half
of a pass is Python. So further copies of the backend run in processes of their own, beside the
first one, which stays in this process:

    complete -> the copy that knows the conversation, else the least busy one
                here: HFBackend    elsewhere: pipe -> ``main`` of that process -> HFBackend

A conversation stays with its copy, which keeps what it has read. Processes are started once a run
turns out long enough to be worth it, and a request of one that dies is answered here.
"""

from __future__ import annotations

import itertools
import os
import pickle
import socket
import subprocess
import sys
import threading
import warnings
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from multiprocessing.connection import Connection
from typing import Any

import torch

from harness.errors import BackendError
from harness.policy import ContextOverflow, Decoding
from harness.transcript import Segment, conversation
from harness.types import Completion
from harness_agents.backends.hf import HFBackend
from harness_agents.checkpoints import Checkpoint

#: Most processes unless told, and most bytes of weights that are worth having twice.
MOST, SMALL = 4, 64 << 20
#: Replies after which copies are started: their start costs some seconds of a core.
REPLIES = 500
#: Conversations whose copy is remembered.
KNOWN = 1 << 14
_ERRORS: dict[str, type[Exception]] = {
    kind.__name__: kind for kind in (BackendError, ContextOverflow)
}


def copies_for(first: HFBackend) -> int:
    """How many copies, the first one too, serve this machine unless told: one for each of torch's
    threads where the model is small and on the CPU. A batch of one stays alone, to be exact."""
    size = sum(p.numel() * p.element_size() for p in first.model.parameters())
    alone = first.device.type != "cpu" or first.batch_size == 1 or size > SMALL or os.name == "nt"
    return 1 if alone else min(MOST, torch.get_num_threads())


class Copies:
    """``harness.policy.Backend`` over ``count`` copies of ``first``, built with ``options``.

    Replies are ``first``'s up to rounding: which requests share a batch is another matter, and
    that was so before.
    """

    def __init__(
        self, first: HFBackend, checkpoint: Checkpoint, options: dict[str, Any], count: int
    ) -> None:
        self.first = first
        self._start = (checkpoint, options)
        self._count = count
        self._threads = max(1, torch.get_num_threads() // count)
        self._lock = threading.Lock()
        self._places: OrderedDict[bytes, Any] = OrderedDict()
        self._busy: dict[Any, int] = {first: 0}
        self._dead: set[Any] = set()
        self._replies = 0
        self._opening: threading.Thread | None = None
        self._starting: list[Elsewhere] = []
        self._closed = False

    def complete(
        self,
        blocks: Sequence[Sequence[Segment]],
        decoding: Decoding,
        seed: int,
        actions: Sequence[str] = (),
    ) -> Completion:
        """Sample one reply (see ``HFBackend.complete``)."""
        place = self._place(blocks)
        try:
            if place is not self.first:
                try:
                    reply: Completion = place.complete(blocks, decoding, seed, actions)
                    return reply
                except EOFError:
                    self._lost(place, "died")
            return self.first.complete(blocks, decoding, seed, actions)
        finally:
            with self._lock:
                if place in self._busy:
                    self._busy[place] -= 1

    def describe(self) -> dict[str, Any]:
        """What decides a reply, for run.json: the same for any number of copies."""
        return self.first.describe()

    def close(self) -> None:
        """Stop all copies; whoever still waits gets a BackendError."""
        with self._lock:
            self._closed = True
            places = [*self._busy, *self._starting]
        for place in places:
            place.close()
        if self._opening is not None:
            self._opening.join()

    def _place(self, blocks: Sequence[Sequence[Segment]]) -> Any:
        key = conversation(blocks)
        with self._lock:
            self._replies += 1
            if self._replies == REPLIES and self._count > 1 and not self._closed:
                self._opening = threading.Thread(target=self._open, name="copies", daemon=True)
                self._opening.start()
            place = self._places.get(key)
            if place not in self._busy:
                place = min(self._busy, key=self._busy.__getitem__)
            self._places[key] = place
            self._places.move_to_end(key)
            if len(self._places) > KNOWN:
                self._places.popitem(last=False)
            self._busy[place] += 1
            return place

    def _open(self) -> None:
        with self._lock:
            if self._closed:
                return
            more = range(self._count - 1)
            wanted = self.first.describe()["weights_sha256"]
            self._starting = [Elsewhere(*self._start, self._threads, wanted) for _ in more]
        for place in self._starting:
            try:
                place.ready()
            except (EOFError, BackendError) as error:
                self._lost(place, "did not start", str(error))
                continue
            with self._lock:
                self._busy[place] = 0
        self._starting = []
        if len(self._busy) > 1:
            self.first.threads = self._threads

    def _lost(self, place: Elsewhere, how: str, why: str = "") -> None:
        with self._lock:
            first = place not in self._dead and not self._closed
            self._dead.add(place)
            self._busy.pop(place, None)
        place.close()
        if first:
            warnings.warn(
                f"A copy of {self._start[0].name} {how} ({why or place.ended}); nothing is lost, "
                "the others answer for it.",
                RuntimeWarning,
                stacklevel=2,
            )


class Elsewhere:
    """The end, in this process, of a copy in a process of its own. Every call raises EOFError once
    that process is gone."""

    def __init__(
        self, checkpoint: Checkpoint, options: dict[str, Any], threads: int, wanted: str
    ) -> None:
        here, there = socket.socketpair()
        # The user's own script is not imported again there, as multiprocessing would.
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__, str(there.fileno())],
            pass_fds=[there.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # an interrupt is the first process's to handle
            env={
                **os.environ,
                "OMP_NUM_THREADS": str(threads),
                "PYTHONPATH": os.pathsep.join(p for p in sys.path if p),
            },
        )
        there.close()
        self._pipe = Connection(here.detach())
        self._sending = threading.Lock()
        self._waiting: dict[int, Future[Any]] = {-1: Future()}
        self._number = itertools.count()
        self._gone = False
        self._send((checkpoint, options, wanted))
        self._listening = threading.Thread(target=self._listen, name="copy", daemon=True)
        self._listening.start()

    def ready(self) -> None:
        """Wait until the copy has loaded its model."""
        self._waiting[-1].result()

    def complete(self, *request: Any) -> Completion:
        """``HFBackend.complete`` there."""
        answer: Future[Completion] = Future()
        number = next(self._number)
        with self._sending:
            self._waiting[number] = answer
        self._send((number, request))
        if self._gone:  # perhaps before the answer was waited for
            raise EOFError
        return answer.result()

    def close(self) -> None:
        """End the process."""
        self._process.terminate()
        self._process.wait()
        self._listening.join()
        with self._sending:
            self._gone = True
            self._pipe.close()

    @property
    def ended(self) -> str:
        """How the process ended."""
        return f"exit code {self._process.returncode}"

    def _send(self, what: Any) -> None:
        body = pickle.dumps(what)
        try:
            with self._sending:
                self._pipe.send_bytes(body)
        except OSError:  # gone, or closed
            self._gone = True
            raise EOFError from None

    def _listen(self) -> None:
        while True:
            try:
                number, kind, value = self._pipe.recv()
            except (EOFError, OSError):
                break
            waiting = self._waiting[-1] if number < 0 else self._waiting.pop(number)
            if kind:
                waiting.set_exception(_ERRORS.get(kind, BackendError)(value))
            else:
                waiting.set_result(value)
        self._gone = True
        with self._sending:
            left = [future for future in self._waiting.values() if not future.done()]
        for future in left:
            future.set_exception(EOFError())


def main(number: int) -> None:
    """A copy's process: answers what comes through socket ``number`` until it is closed."""
    pipe = Connection(number)
    sending = threading.Lock()

    def send(*answer: Any) -> None:
        with sending:
            pipe.send(answer)

    checkpoint, options, wanted = pipe.recv()
    backend = HFBackend(checkpoint, **options)
    if backend.describe()["weights_sha256"] != wanted:
        send(-1, "BackendError", "other weights are in its folder by now")
        return
    send(-1, "", None)

    def answer(number: int, request: Any) -> None:
        try:
            reply = backend.complete(*request)
        except Exception as error:
            send(number, type(error).__name__, str(error))
        else:
            send(number, "", reply)

    with ThreadPoolExecutor(1024) as pool:
        while True:
            try:
                asked = pipe.recv()
            except EOFError:
                os._exit(0)  # nobody is left to answer
            pool.submit(answer, *asked)


if __name__ == "__main__":
    main(int(sys.argv[1]))
