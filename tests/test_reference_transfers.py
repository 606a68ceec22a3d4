"""Transfers over shared links, small enough to work out by hand."""

from math import inf

import pytest

from tests.reference.transfers import Links, Transfer


def carried(capacity, starts, fifo=False):
    """Start transfers from rows (time, bytes, path[, fixed_s]); returns when each started and landed."""
    links, transfers = Links(capacity, fifo), []
    for start_s, size, path, *fixed_s in starts:
        while links.next_end_s() <= start_s:
            links.end(links.next_end_s())
        transfers.append(Transfer(len(transfers), bytes=size))
        links.start(transfers[-1], start_s, size, path, *fixed_s or [0.0])
    while links.next_end_s() < inf:
        links.end(links.next_end_s())
    return [(transfer.start_s, transfer.landed_s) for transfer in transfers]


def test_a_link_is_shared_in_equal_parts():
    # A has 50 of its 100 bytes left at 5. B's 20 take 4 s at half the rate, in which A moves 20 too; its last 30 go at the full rate.
    assert carried([10.0], [(0.0, 100.0, [0]), (5.0, 20.0, [0])]) == [(0.0, 12.0), (5.0, 9.0)]


def test_the_narrowest_share_of_a_path_is_the_rate():
    # A and B have 5 each of link 0, B and C 4 each of link 1. B gets 4, and what it leaves of link 0 goes to nobody.
    # At 5 A has moved all. B is alone on link 0, and still gets 4.
    starts = [(0.0, 25.0, [0]), (0.0, 40.0, [0, 1]), (0.0, 40.0, [1])]
    assert carried([10.0, 8.0], starts) == [(0.0, 5.0), (0.0, 10.0), (0.0, 10.0)]


def test_two_transfers_that_end_together():
    assert carried([10.0], [(0.0, 40.0, [0]), (0.0, 40.0, [0])]) == [(0.0, 8.0), (0.0, 8.0)]


def test_the_fixed_time_follows_the_bytes_and_does_not_occupy_the_link():
    assert carried([10.0], [(0.0, 20.0, [0], 3.0), (2.0, 20.0, [0], 1.0)]) == [(0.0, 5.0), (2.0, 5.0)]


def test_links_without_limit_take_no_time():
    assert carried([10.0, inf], [(0.0, 20.0, [1], 0.5), (1.0, 0.0, [0]), (1.0, 20.0, [0, 1])]) == [(0.0, 0.5), (1.0, 1.0), (1.0, 3.0)]


def test_one_after_the_other():
    # B waits for A's link until 2, C for B's second link until 4; D has a link of its own but for the one without limit, which all use.
    starts = [(0.0, 20.0, [0, 3]), (1.0, 10.0, [0, 1, 3]), (1.0, 5.0, [1, 3], 1.0), (1.0, 5.0, [2, 3])]
    assert carried([10.0, 5.0, 5.0, inf], starts, fifo=True) == [(0.0, 2.0), (2.0, 4.0), (4.0, 6.0), (1.0, 2.0)]


def test_a_transfer_lands_when_its_bytes_have_moved():
    links, transfer = Links([3.0], fifo=False), Transfer(0, bytes=1.0)
    links.start(transfer, 0.0, 1.0, [0], 0.0)
    with pytest.raises(AssertionError, match="other bytes than its own"):
        links.end(0.25)
