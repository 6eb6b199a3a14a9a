"""How an export shares the cores."""

import threading
import time

import numpy as np
import pytest
from threadpoolctl import threadpool_info

from edgert.export.threads import ordered_map, product_threads


def threads():
    """Of each BLAS that is loaded."""
    return {info["num_threads"] for info in threadpool_info() if info["user_api"] == "blas"}


def test_products_take_as_many_threads_as_they_are_given_and_give_them_back():
    np.ones((4, 4)) @ np.ones((4, 4))
    before = threads()
    with product_threads(1):
        assert threads() <= {1}
    assert threads() == before
    with pytest.raises(ZeroDivisionError), product_threads(1):
        raise ZeroDivisionError
    assert threads() == before


def test_results_come_in_order_and_few_are_made_ahead():
    made, gate = [], threading.Event()

    def items():
        for number in range(9):
            made.append(number)
            yield number

    def double(number):
        gate.wait(10)
        return 2 * number

    results = ordered_map(double, items(), 2)
    threading.Timer(0.05, gate.set).start()
    assert next(results) == 0
    assert made == [0, 1, 2]
    assert list(results) == [2, 4, 6, 8, 10, 12, 14, 16]


def test_after_an_error_nothing_new_is_begun():
    done = []

    def fail_first(number):
        time.sleep(0.1)
        done.append(number)
        return 1 // number

    with pytest.raises(ZeroDivisionError):
        list(ordered_map(fail_first, range(9), 1, ahead=8))
    assert len(done) <= 3
