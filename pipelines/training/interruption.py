"""A request to stop, kept until a step is whole."""

import signal
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Final

_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)


class Interruption:
    """Which signal asked to stop, if one did.

    Args:
        signals: The signals that ask.
    """

    def __init__(self, signals: Iterable[int] = ()) -> None:
        self._signals = tuple(signals)
        self._received: int | None = None

    def install(self) -> None:
        """Notes the signals from now on, whoever handled them before."""
        for number in self._signals:
            signal.signal(number, self.note)

    @property
    def is_requested(self) -> bool:
        """Whether a signal came."""
        return self._received is not None

    def note(self, number: int, frame: FrameType | None) -> None:
        """A handler of signals that only remembers; a second signal counts no more than the first."""
        del frame
        self._received = number

    def deliver(self) -> None:
        """Sends the signal again, to whoever handles it now; where nobody stops, the interruption is raised.

        Raises:
            KeyboardInterrupt: A signal came, and its handler let the program go on.
        """
        if self._received is None:
            return
        number, self._received = self._received, None
        signal.raise_signal(number)
        raise KeyboardInterrupt(f"training was stopped by {signal.Signals(number).name}")


@contextmanager
def deferred_interruption() -> Iterator[Interruption]:
    """Notes SIGINT and SIGTERM instead of acting on them; the handlers before come back at the end.

    Signals that are ignored stay so. Outside the main thread, where no signal arrives, nothing is changed.
    """
    before = {}
    if threading.current_thread() is threading.main_thread():
        handlers = {number: signal.getsignal(number) for number in _SIGNALS}
        before = {number: handler for number, handler in handlers.items() if handler not in {signal.SIG_IGN, None}}
    interruption = Interruption(before)
    try:
        interruption.install()
        yield interruption
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
