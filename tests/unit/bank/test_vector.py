"""Packed amounts behave like tuples of whole numbers, and no lane ever touches its neighbour."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.bank.vector import fits, guards, lanewise_max, lanewise_min, pack, pack_caps, unpack
from runtime.errors import InternalError

N = 4
MOST = 2**94 - 1
amount = st.integers(0, 50) | st.integers(0, MOST) | st.sampled_from([MOST, MOST - 1, 2**63, 2**64])
vectors = st.tuples(*[amount] * N)
pairs = st.tuples(vectors, vectors)


@given(vectors)
def test_what_is_packed_is_unpacked(amounts: tuple[int, ...]) -> None:
    assert unpack(pack(amounts), N) == amounts


@given(pairs)
def test_fits_is_less_or_equal_in_every_lane(pair: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
    a, b = pair

    assert fits(pack(a), pack(b), guards(N)) == all(x <= y for x, y in zip(a, b, strict=True))


@given(vectors, st.integers(0, N - 1))
def test_one_unit_too_many_in_one_lane_does_not_fit(amounts: tuple[int, ...], lane: int) -> None:
    limit = pack(amounts)

    assert fits(limit, limit, guards(N))
    assert not fits(limit + pack(tuple(int(i == lane) for i in range(N))), limit, guards(N))


@given(pairs)
def test_sums_and_differences_stay_in_their_lanes(pair: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
    a, b = pair

    assert unpack(pack(a) + pack(b), N) == tuple(x + y for x, y in zip(a, b, strict=True))
    assert pack(a) + pack(b) - pack(b) == pack(a)


@given(st.tuples(*[st.integers(0, 2**40)] * N), st.integers(0, 2**50))
def test_multiples_stay_in_their_lanes(amounts: tuple[int, ...], times: int) -> None:
    assert unpack(times * pack(amounts), N) == tuple(times * a for a in amounts)


@given(pairs)
def test_lanewise_extremes_are_those_of_each_lane(pair: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
    a, b = pair

    assert unpack(lanewise_min(pack(a), pack(b), N), N) == tuple(map(min, a, b))
    assert unpack(lanewise_max(pack(a), pack(b), N), N) == tuple(map(max, a, b))


@given(vectors)
def test_no_cap_is_above_every_amount(amounts: tuple[int, ...]) -> None:
    assert fits(pack(amounts), pack_caps((None,) * N), guards(N))
    assert pack_caps(amounts) == pack(amounts)


@pytest.mark.parametrize("amount", [-1, MOST + 1, 10**40])
def test_what_is_no_amount_is_refused(amount: int) -> None:
    with pytest.raises(InternalError, match="is no amount"):
        pack((0, amount))
