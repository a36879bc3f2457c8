"""Execution of a traced chain: one trace for each shape, its values told apart by how many of them there are, generated code.

trace      a chain on one parameter as a graph
values     values of several graphs matched with each other: Python numbers, one per parameter, one per element
schedule   the order of the operations: those on whole buckets, and segments that depend on a parameter's shape
code       the operations of a bucket as a Python function without the machinery of links
bucket     small parameters of any shapes in one buffer, stepped by that function
"""
