"""Everything that a service process writes is JSON: what is written past the log becomes events as well.

Banners of libraries, tracebacks that Python prints, stacks that faulthandler dumps, last words of native code: all go
to file descriptors 1 and 2. A service puts pipes in their place, and a thread that reads them; its own lines, and those
of its children, go past the pipes. What a process writes in the instant of its own death by SIGKILL is lost.
"""

import atexit
import os
import selectors
import sys
import threading
import traceback
from collections.abc import Iterator
from contextlib import suppress
from types import TracebackType

from pipeline.telemetry.events.services import ErrorDropped, ProcessCrashed, StderrText, StdoutText, ThreadCrashed
from pipeline.telemetry.events.workers import ThreadStack
from pipeline.telemetry.logs import STDERR, configure_logging

STDOUT = 1
BURST_S = 0.05
"""What is written without a longer pause is one event: the lines of a stack belong together."""
LARGEST_TEXT = 3000
"""Characters of one event: with escapes and the other fields it fits into a line of the log."""
LAST_WORDS_S = 1.0
"""How long a process that ends waits for what it has written to be logged."""


class ProcessOutput:
    """Stands in the place of standard output and standard error until ``close``."""

    def __init__(self) -> None:
        self._originals = {descriptor: os.dup(descriptor) for descriptor in (STDOUT, STDERR)}
        self._readers: dict[int, int] = {}
        for descriptor in self._originals:
            reader, writer = os.pipe()
            os.dup2(writer, descriptor)
            os.close(writer)
            self._readers[reader] = descriptor
        self._owner = os.getpid()
        # A child that kept them open would wait for ever once it has filled a pipe of a parent that is dead.
        os.register_at_fork(after_in_child=self._close_readers)
        self._thread = threading.Thread(target=self._read, name="process-output", daemon=True)
        self._thread.start()
        atexit.register(self.close)

    @property
    def log_descriptor(self) -> int:
        """Standard error as it was: where the log goes."""
        return self._originals[STDERR]

    def close(self) -> None:
        """Log what has been written, and put standard output and standard error back."""
        if os.getpid() != self._owner or not self._originals:
            return
        for stream in (sys.stdout, sys.stderr):
            with suppress(Exception):
                stream.flush()
        for descriptor, original in self._originals.items():
            os.dup2(original, descriptor)
        self._originals = {}
        self._thread.join(LAST_WORDS_S)  # a child that lives on may still hold the pipes

    def _close_readers(self) -> None:
        for reader in self._readers:
            os.close(reader)
        self._readers = {}

    def _read(self) -> None:
        with selectors.DefaultSelector() as selector:
            for reader in self._readers:
                selector.register(reader, selectors.EVENT_READ)
            pending = dict.fromkeys(self._readers, b"")
            while selector.get_map():
                ready = [key.fd for key, _ in selector.select(BURST_S if any(pending.values()) else None)]
                for reader in ready:
                    read = os.read(reader, 1 << 16)
                    pending[reader] += read
                    if not read:
                        selector.unregister(reader)
                for reader, written in pending.items():
                    if reader not in ready or len(written) > 1 << 16:
                        pending[reader] = b""
                        self._emit(self._readers[reader], written)
            for reader, written in pending.items():
                self._emit(self._readers[reader], written)

    @staticmethod
    def _emit(descriptor: int, written: bytes) -> None:
        kind = StdoutText if descriptor == STDOUT else StderrText
        for text in _pieces(written.decode(errors="replace")):
            kind(text=text).emit()


def _pieces(text: str) -> Iterator[str]:
    """Whole lines, as many as fit into an event; a line that is longer is divided."""
    piece = ""
    for line in text.splitlines():
        for start in range(0, len(line), LARGEST_TEXT):
            part = line[start : start + LARGEST_TEXT]
            if piece and len(piece) + len(part) >= LARGEST_TEXT:
                yield piece
                piece = ""
            piece += f"\n{part}" if piece else part
    if piece.strip():
        yield piece


def log_everything(service: str) -> ProcessOutput:
    """Make all that this service process writes, until it ends, JSON lines on standard error. Call it once, first."""
    output = ProcessOutput()
    configure_logging(service, descriptor=output.log_descriptor)
    sys.excepthook = _process_crashed
    threading.excepthook = _thread_crashed
    sys.unraisablehook = _error_dropped
    return output


def _process_crashed(_: type[BaseException], error: BaseException, __: TracebackType | None) -> None:
    ProcessCrashed(error=repr(error)).emit(error)


def _thread_crashed(args: threading.ExceptHookArgs) -> None:
    if args.exc_type is SystemExit:
        return  # as Python itself does
    name = args.thread.name if args.thread else ""
    ThreadCrashed(thread=name, error=repr(args.exc_value)).emit(args.exc_value)


def _error_dropped(args: "sys.UnraisableHookArgs") -> None:
    what = args.err_msg or "exception ignored"
    ErrorDropped(error=repr(args.exc_value), reason=f"{what}: {args.object!r}"[:500]).emit(args.exc_value)


def emit_stacks() -> None:
    """Emit where each thread of this process stands."""
    # Not threading.enumerate(): what hangs may hold its lock.
    names = {thread.ident: thread.name for thread in list(threading._active.values())}  # type: ignore[attr-defined]
    for ident, frame in sys._current_frames().items():
        lines = reversed(traceback.format_stack(frame))
        ThreadStack(thread=names.get(ident, str(ident)), stack=f"most recent call first:\n{''.join(lines)}").emit()
