"""What docs/theory-table.md is made of: each formula, its place in docs/theory, function, test, and its error.

measure           a measured number against its limit
row               a row, and how functions and tests are named in it
hessians          errors of closed-form Hessians
attention, block, lemmas, bounds, one_more_sample, whole_data, sizes   the rows by subject, and what measures them
table             all of them as a file
"""
