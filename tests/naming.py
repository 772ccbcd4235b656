"""Names of cases that are the same in every process, so that several can share the tests."""

import re


def name_case(value):
    """Give a value as text, without the place in memory that is another in each process."""
    return re.sub(r" at 0x[0-9a-f]+", "", str(value))
