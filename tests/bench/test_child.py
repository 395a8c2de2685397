"""Work in a process of its own: it may fail or die and costs one row."""

from gatekeeper.bench.child import Failed, carry_out, peak_rss_mb


def _odd(number: int) -> int:
    if number % 2 == 0:
        raise ValueError("even")
    return number


def _dies(number: int) -> int:
    import os

    os._exit(number)


def test_work_in_a_process_of_its_own_may_fail_or_die():
    assert dict(carry_out(_odd, [1], 1)) == {1: 1}
    assert "killed" in dict(carry_out(_dies, [3], 1))[3].why
    assert dict(carry_out(_odd, [1, 2], 0))[2] == Failed("ValueError: even")
    assert peak_rss_mb() > 10
