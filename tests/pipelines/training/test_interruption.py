import signal
import threading

import pytest

from pipelines.training.interruption import deferred_interruption


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_waits_and_then_reaches_its_own_handler(
    number: signal.Signals, monkeypatch: pytest.MonkeyPatch
) -> None:
    class AskedToStopError(Exception):
        pass

    def handler(*_: object) -> None:
        raise AskedToStopError

    before = signal.signal(number, handler)
    try:
        with deferred_interruption() as interruption:
            assert not interruption.is_requested
            signal.raise_signal(number)
            signal.raise_signal(number)
            assert interruption.is_requested
        with pytest.raises(AskedToStopError):
            interruption.deliver()
        interruption.deliver()
        assert signal.getsignal(number) is handler
    finally:
        signal.signal(number, before)


def test_a_handler_that_does_nothing_does_not_hide_the_stop() -> None:
    before = signal.signal(signal.SIGTERM, lambda *_: None)
    try:
        with deferred_interruption() as interruption:
            signal.raise_signal(signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt, match="stopped by SIGTERM"):
            interruption.deliver()
    finally:
        signal.signal(signal.SIGTERM, before)


def test_an_ignored_signal_stays_ignored() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with deferred_interruption() as interruption:
            signal.raise_signal(signal.SIGINT)
            assert not interruption.is_requested
    finally:
        signal.signal(signal.SIGINT, before)


def test_another_thread_leaves_handlers_alone() -> None:
    handlers = []

    def body() -> None:
        with deferred_interruption():
            handlers.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=body)
    thread.start()
    thread.join()
    assert handlers == [signal.getsignal(signal.SIGINT)]
