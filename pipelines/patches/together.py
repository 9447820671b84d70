"""Coroutines that run together and end together."""

import asyncio
import threading
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any

from pipelines.errors import SceneContentError


async def all_or_none[T](coroutines: Sequence[Coroutine[Any, Any, T]]) -> list[T]:
    """The results in order; the first failure cancels the others, waits until they ended, and is raised."""
    if len(coroutines) == 1:
        return [await coroutines[0]]
    tasks = [asyncio.ensure_future(each) for each in coroutines]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def read_together[T](reads: Mapping[str, Coroutine[Any, Any, T]]) -> dict[str, T]:
    """The results by name. A fault ends all at once; a verdict is raised only when no fault can hide another.

    Raises:
        SceneContentError: the verdict of the first name that has one.
    """
    tasks = {name: asyncio.ensure_future(read) for name, read in reads.items()}
    pending = set(tasks.values())
    try:
        while pending:
            done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_EXCEPTION)
            for task in done:
                error = task.exception()
                if error is not None and not isinstance(error, SceneContentError):
                    raise error
        return {name: task.result() for name, task in tasks.items()}
    finally:
        for task in tasks.values():
            task.cancel()
        await asyncio.gather(*tasks.values(), return_exceptions=True)


def run_on_own_loop[T](main: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Runs a coroutine to its end on an event loop of its own, also where a loop is running already (a notebook)."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(main())
    results: list[T] = []
    failures: list[BaseException] = []

    def run() -> None:
        try:
            results.append(asyncio.run(main()))
        except BaseException as error:  # noqa: BLE001 - it is raised by the caller's thread
            failures.append(error)

    thread = threading.Thread(target=run, name="patches")
    thread.start()
    thread.join()
    if failures:
        raise failures[0]
    return results[0]
