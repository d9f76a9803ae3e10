"""Phantom head CTs with the five kinds of bleeding, in BHSD's layout.

`python -m data_prep.phantom --output data/raw/phantom --num_volumes 24 --seed 0` writes a data set;
`make_head` makes one head in memory.
"""

from data_prep.phantom.head import Head, make_head

__all__ = ["Head", "make_head"]
