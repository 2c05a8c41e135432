"""A term of a loss is a sum and what it is divided by."""

from __future__ import annotations

import pytest
import torch

from barm.batch import Term


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def test_a_term_divides_by_at_least_one():
    assert float(Term(torch.tensor(3.0), torch.tensor(0)).value) == 3
    assert float(Term(torch.tensor(3.0), torch.tensor(2), 4.0).value) == 6
