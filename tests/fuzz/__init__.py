"""Seeded generators of malformed and odd input, and the judge of what the library makes of it.

A file is a kind of input; `CASES` of `kinds.py` names them all. A case is a function of its number and the seed alone, so that
one which fails is made again by `python benchmarks/fuzz.py --again images:1234`.
"""
