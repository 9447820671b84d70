"""Crops: images, masks and boxes stay together whatever is done to them."""

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipelines.satlas.images import TileImage
from pipelines.satlas.training.crops import collate, cut, random_crop, turn, vary
from pipelines.satlas.training.examples import BoxTarget, Example, MaskTarget, ValueTarget

SIZE = 48


def _marked(target_kind: str, rng: np.random.Generator, number: int = 3) -> Example:
    """Bright squares of 4 pixels, and a target that says where they are."""
    channels = np.zeros((9, SIZE, SIZE), dtype=np.uint8)
    corners = rng.integers(0, (SIZE - 4) // 4, (number, 2)) * 4
    boxes = []
    for row, column in corners:
        channels[:, row : row + 4, column : column + 4] = 200
        boxes.append([column, row, column + 4, row + 4])
    present = np.ones((SIZE, SIZE), dtype=np.bool_)
    mask = (channels[0] > 0).astype(np.uint8)
    target = {
        "mask": MaskTarget(mask[None], present),
        "value": ValueTarget(channels[0].astype(np.float32), present),
        "box": BoxTarget(np.array(boxes, dtype=np.float32), np.ones(number, np.int64), np.zeros(number, np.bool_)),
    }[target_kind]
    return Example("marked", [TileImage(channels, present), TileImage(channels // 2, present)], target)


def _is_consistent(example: Example) -> bool:
    brightest = np.maximum(*(image.channels[0] for image in example.images))
    bright = brightest > 0
    target = example.target
    if isinstance(target, MaskTarget):
        return bool((bright == (target.classes[0] > 0))[target.valid].all())
    if isinstance(target, ValueTarget):
        return bool((brightest == target.values)[target.valid].all())
    return all(
        bright[int(top) : int(np.ceil(bottom)), int(left) : int(np.ceil(right))].all()
        for left, top, right, bottom in target.boxes
    )


@given(st.sampled_from(["mask", "value", "box"]), st.integers(0, 3), st.booleans(), st.integers(0, 10_000))
def test_turning_moves_images_and_targets_alike(kind: str, quarters: int, mirrored: bool, seed: int) -> None:
    example = _marked(kind, np.random.default_rng(seed))
    assert _is_consistent(example)
    turned = turn(example, quarters, mirrored=mirrored)
    assert _is_consistent(turned)
    back = turned
    if mirrored:
        back = turn(turn(turned, -quarters, mirrored=False), 0, mirrored=True)
    else:
        back = turn(turned, -quarters, mirrored=False)
    np.testing.assert_array_equal(back.images[0].channels, example.images[0].channels)


@given(
    st.sampled_from(["mask", "value", "box"]), st.sampled_from([16, 32, 64]), st.floats(0, 1), st.integers(0, 10_000)
)
def test_random_crops_are_of_their_size_and_consistent(kind: str, size: int, centered: bool, seed: int) -> None:
    rng = np.random.default_rng(seed)
    crop = random_crop(_marked(kind, rng), size, centered, 0.25, rng)
    assert crop is not None
    assert crop.shape == (size, size)
    assert len(crop.images) == 2
    assert _is_consistent(crop)


def test_centered_crops_hold_an_object() -> None:
    rng = np.random.default_rng(0)
    example = _marked("box", rng, number=1)
    crops = [random_crop(example, 16, True, 0.25, rng) for _ in range(20)]
    assert all(crop is not None and crop.images[0].channels.any() for crop in crops)


def test_an_image_that_shows_too_little_is_left_out_and_without_any_there_is_no_crop() -> None:
    example = _marked("mask", np.random.default_rng(0))
    gone = np.zeros((SIZE, SIZE), dtype=np.bool_)
    half = Example("half", [TileImage(example.images[0].channels, gone), example.images[1]], example.target)
    rng = np.random.default_rng(1)
    crop = random_crop(half, 32, False, 0.25, rng)
    assert crop is not None
    assert len(crop.images) == 1
    dark = Example("dark", [TileImage(example.images[0].channels, gone)], example.target)
    assert random_crop(dark, 32, False, 0.25, rng) is None


def test_beyond_an_example_no_pixel_counts() -> None:
    example = _marked("mask", np.random.default_rng(0))
    beyond = cut(example, 0, 0, 64)
    assert isinstance(beyond.target, MaskTarget)
    assert beyond.target.valid.sum() == SIZE**2
    assert not beyond.images[0].present[SIZE:].any()


def test_a_batch_has_zeros_where_an_image_lacks_and_leaves_unseen_boxes_out() -> None:
    example = _marked("box", np.random.default_rng(3))
    assert isinstance(example.target, BoxTarget)
    hidden = np.ones((SIZE, SIZE), dtype=np.bool_)
    left, top, right, bottom = example.target.boxes[0].astype(int)
    hidden[top:bottom, left:right] = False
    one = Example("one", [TileImage(example.images[0].channels, hidden)], example.target)
    batch = collate([example, one], 3, 3)
    assert batch.images.shape == (2, 3, 3, SIZE, SIZE)
    assert batch.present.tolist() == [[True, True, False], [True, False, False]]
    assert float(batch.images.max()) == np.float32(200 / 255)
    assert not batch.images[1, 1:].any()
    assert len(batch.target[0]["boxes"]) == 3
    boxes = {tuple(box) for box in batch.target[1]["boxes"].tolist()}
    assert (float(left), float(top), float(right), float(bottom)) not in boxes
    difficult = BoxTarget(example.target.boxes, example.target.labels, np.array([True, False, False]))
    harder = collate([Example("h", example.images, difficult)], 2, 9).target[0]
    assert len(harder["boxes"]) == 2
    assert harder["labels"].dtype == torch.int64


@given(st.floats(0.05, 0.4), st.integers(0, 10_000))
def test_other_light_multiplies_channels_of_all_images_and_images_as_a_whole(spread: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    levels = np.full((2, 9, SIZE, SIZE), 60, dtype=np.uint8)
    everywhere = np.ones((SIZE, SIZE), dtype=np.bool_)
    target = ValueTarget(np.zeros((SIZE, SIZE), np.float32), everywhere)
    varied = vary(Example("flat", [TileImage(each, everywhere) for each in levels], target), spread, rng)
    assert varied.target is target
    first, second = (image.channels[:, 0, 0].astype(float) for image in varied.images)
    assert all((image.channels == image.channels[:, :1, :1]).all() for image in varied.images)
    assert len(set(first)) > 1
    unclipped = (first < 255) & (second < 255) & (first > 0) & (second > 0)
    ratios = second[unclipped] / first[unclipped]
    np.testing.assert_allclose(ratios, np.median(ratios), atol=1.5 / first[unclipped].min() * (1 + ratios.max()))


def test_other_light_leaves_what_is_black_black_and_spreads_as_said() -> None:
    channels = np.full((9, 1, 1), 100, dtype=np.uint8)
    channels[0] = 0
    present = np.ones((1, 1), dtype=np.bool_)
    example = Example("pixel", [TileImage(channels, present)], ValueTarget(np.zeros((1, 1), np.float32), present))
    rng = np.random.default_rng(0)
    values = np.array([vary(example, 0.2, rng).images[0].channels[:, 0, 0] for _ in range(2000)], dtype=float)
    assert (values[:, 0] == 0).all()
    spread = np.log(values[:, 1:] / 100).std()
    assert abs(spread - np.hypot(0.2, 0.1)) < 0.01
