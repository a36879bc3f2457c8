"""Means and paired differences, against figures worked out by hand."""

import math

import pytest

from gradchain.studies.statistics import estimate, paired_difference


def test_mean_and_standard_error():
    assert estimate([1.0, 2.0, 3.0, 4.0]) == pytest.approx((2.5, math.sqrt(5 / 3) / 2))


def test_one_value_has_no_error_and_none_no_mean():
    assert estimate([2.0])[0] == 2.0 and math.isnan(estimate([2.0]).error)
    assert math.isnan(estimate([]).mean)


def test_the_difference_is_paired_and_its_interval_student_s():
    change = paired_difference([2.0, 4.0, 9.0], [1.0, 2.0, 6.0])  # 1, 2, 3: error 1/sqrt(3), t(0.975, 2) = 4.30265
    assert change == pytest.approx((2.0, 2 - 4.302653 / math.sqrt(3), 2 + 4.302653 / math.sqrt(3)), rel=1e-6)


def test_pairs_with_a_diverged_run_do_not_count():
    change = paired_difference([2.0, math.inf, 4.0], [1.0, 1.0, 1.0])
    assert change.mean == pytest.approx(2.0)
    assert estimate([1.0, math.inf, 3.0]).mean == 2.0
