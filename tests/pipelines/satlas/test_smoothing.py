"""The course of states is the most probable one, by trying all; events are dated where detections say."""

from itertools import pairwise, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from pipelines.satlas.smoothing import DETECTED, NO_IMAGE, NOT_DETECTED, SmoothingConfig, decode_presence

PUBLISHED = SmoothingConfig()


def log_probability(states: tuple[int, ...], codes: list[int], config: SmoothingConfig) -> float:
    """Of a course of states and what was observed along it, by the definition."""
    step, emission = config.transitions(), config.emissions()
    total = np.log([1 - config.initial_probability, config.initial_probability][states[0]])
    total += sum(np.log(emission[state, code]) for state, code in zip(states, codes, strict=True))
    return float(total + sum(np.log(step[a, b]) for a, b in pairwise(states)))


def codes_of(text: str) -> NDArray[np.uint8]:
    return np.array([[{"D": DETECTED, ".": NOT_DETECTED, "?": NO_IMAGE}[each] for each in text]], dtype=np.uint8)


def decoded(text: str, config: SmoothingConfig = PUBLISHED) -> str:
    return "".join("P" if each else "-" for each in decode_presence(codes_of(text), config)[0])


def test_the_defaults_are_the_published_parameters() -> None:
    np.testing.assert_allclose(PUBLISHED.transitions(), [[0.9, 0.1], [0.02, 0.98]])
    np.testing.assert_allclose(PUBLISHED.emissions()[1, [DETECTED, NOT_DETECTED, NO_IMAGE]], [0.75, 0.2, 0.05])
    np.testing.assert_allclose(PUBLISHED.emissions().sum(axis=1), 1)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.integers(0, 2), min_size=1, max_size=8),
    st.floats(0.02, 0.5),
    st.floats(0.01, 0.4),
    st.floats(0.5, 0.9),
)
def test_no_course_is_more_probable_than_the_decoded_one(
    codes: list[int], built: float, gone: float, detected: float
) -> None:
    config = SmoothingConfig(construction_probability=built, removal_probability=gone, detection_probability=detected)
    found = decode_presence(np.array([codes], dtype=np.uint8), config)[0]
    best = max(log_probability(states, codes, config) for states in product((0, 1), repeat=len(codes)))
    assert log_probability(tuple(found.astype(int)), codes, config) == pytest.approx(best, abs=1e-9)


@pytest.mark.parametrize(
    ("observed", "states"),
    [
        ("......DDDDDD", "------PPPPPP"),
        ("DDDDDD......", "PPPPPP------"),
        ("...D........", "------------"),
        ("DDDD.DDDDDDD", "PPPPPPPPPPPP"),
        ("DDD????DDDDD", "PPPPPPPPPPPP"),
        ("...........D", "-----------P"),
        ("....???DDDDD", None),
        ("DDDDDDDDDDD.", "PPPPPPPPPPPP"),
        ("............", "------------"),
    ],
)
def test_known_courses(observed: str, states: str | None) -> None:
    assert decoded(observed) == (states or decoded(observed))
    if states is None:
        assert decoded(observed)[:4] == "----"
        assert decoded(observed)[7:] == "PPPPP"


def test_a_later_month_revises_an_earlier_verdict() -> None:
    assert decoded("DDDDDD..") == "PPPPPPPP"
    assert decoded("DDDDDD...") == "PPPPPP---"


@settings(max_examples=25, deadline=None)
@given(st.text(alphabet="D.", min_size=1, max_size=10), st.integers(0, 9), st.integers(1, 4))
def test_months_without_an_image_tell_nothing_of_presence_or_absence(text: str, place: int, number: int) -> None:
    # The likelihood ratio of a month without an image is one: only transitions act over it.
    emission = PUBLISHED.emissions()
    assert emission[0, NO_IMAGE] == emission[1, NO_IMAGE]
    place = min(place, len(text))
    longer = decoded(text[:place] + "?" * number + text[place:])
    assert len(longer) == len(text) + number
    if text == "D" * len(text):
        assert set(longer) == {"P"}


def test_objects_do_not_influence_one_another_and_none_is_fine() -> None:
    rng = np.random.default_rng(4)
    codes = rng.integers(0, 3, (50, 18)).astype(np.uint8)
    together = decode_presence(codes, PUBLISHED)
    for row in range(0, 50, 7):
        np.testing.assert_array_equal(together[row], decode_presence(codes[row : row + 1], PUBLISHED)[0])
    assert decode_presence(codes[:0], PUBLISHED).shape == (0, 18)
    assert decode_presence(codes[:, :0], PUBLISHED).shape == (50, 0)


def test_construction_and_removal_are_dated_within_a_month_for_most_objects() -> None:
    rng = np.random.default_rng(7)
    number, months = 1000, 18
    built, gone = rng.integers(3, 7, number), rng.integers(10, 14, number)
    there = (np.arange(months) >= built[:, None]) & (np.arange(months) < gone[:, None])
    detected = rng.random((number, months)) < np.where(there, 0.85, 0.03)
    codes = np.where(detected, DETECTED, NOT_DETECTED).astype(np.uint8)
    codes[rng.random((number, months)) < 0.1] = NO_IMAGE
    present = decode_presence(codes, PUBLISHED)
    first = present.argmax(axis=1)
    last = months - 1 - present[:, ::-1].argmax(axis=1)
    assert present.any(axis=1).mean() > 0.94
    assert (abs(first - built) <= 1).mean() >= 0.8
    assert (abs(last - (gone - 1)) <= 1).mean() >= 0.8


def test_unknown_codes_and_senseless_parameters_are_refused() -> None:
    with pytest.raises(ValueError, match="codes 0, 1, 2"):
        decode_presence(np.full((1, 1), 3, dtype=np.uint8), PUBLISHED)
    with pytest.raises(ValueError, match="must be above"):
        SmoothingConfig(detection_probability=0.05)
    with pytest.raises(ValueError, match="leave room"):
        SmoothingConfig(detection_probability=0.96)
