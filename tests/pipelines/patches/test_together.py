import asyncio

import pytest

from pipelines.errors import SceneContentError, SceneReadError
from pipelines.patches.together import all_or_none, read_together, run_on_own_loop


async def after(seconds: float, result: object) -> object:
    await asyncio.sleep(seconds)
    if isinstance(result, BaseException):
        raise result
    return result


def test_results_come_in_the_order_given() -> None:
    async def main() -> tuple[list[object], dict[str, object]]:
        return (
            await all_or_none([after(0.02, "a"), after(0, "b")]),
            await read_together({"B02": after(0.02, 1), "B03": after(0, 2)}),
        )

    assert asyncio.run(main()) == (["a", "b"], {"B02": 1, "B03": 2})


def test_the_first_failure_ends_the_others() -> None:
    async def main() -> int:
        with pytest.raises(ValueError, match="early"):
            await all_or_none([after(30, "late"), after(0, ValueError("early"))])
        return len(asyncio.all_tasks())

    assert asyncio.run(main()) == 1


def test_a_later_fault_comes_before_an_earlier_verdict() -> None:
    async def main() -> None:
        await read_together(
            {"B02": after(0, SceneContentError("missing_file:B02", "gone")), "B03": after(0.03, SceneReadError("503"))}
        )

    with pytest.raises(SceneReadError, match="503"):
        asyncio.run(main())


def test_of_two_verdicts_the_first_band_is_told_whichever_came_first() -> None:
    async def main() -> None:
        await read_together(
            {
                "B02": after(0.03, SceneContentError("missing_file:B02", "gone")),
                "B03": after(0, SceneContentError("missing_file:B03", "gone")),
            }
        )

    with pytest.raises(SceneContentError) as caught:
        asyncio.run(main())
    assert caught.value.reason == "missing_file:B02"


def test_a_loop_of_its_own_also_where_one_runs() -> None:
    async def inner() -> str:
        return "done"

    async def outer() -> str:
        return run_on_own_loop(inner)

    async def failing() -> None:
        raise SceneReadError("not now")

    assert run_on_own_loop(inner) == asyncio.run(outer()) == "done"

    async def outer_failing() -> None:
        run_on_own_loop(failing)

    with pytest.raises(SceneReadError, match="not now"):
        asyncio.run(outer_failing())
