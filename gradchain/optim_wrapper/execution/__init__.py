"""Execution of a traced chain.

trace       a chain on one parameter as a graph
reference   the plain loop that every other way equals

In C++
stages      a graph, cut where the chain needs a library of torch: matrix products, decompositions, Fourier transforms
loops       the operations of a stage, joined into few loops over elements; ``loopable`` says which can be
cpp_code    a stage as a C++ function; ``cpp`` has the expressions, ``sums`` the reductions, ``cpp_places`` the memory
cpp_call    the functions of a bucket with the addresses of its tensors; ``cpp_library`` builds, keeps and loads them
cpp_bucket  parameters that these functions step where they are

In Python, where nothing may be built
values      values of several graphs matched with each other: Python numbers, one per parameter, one per element
schedule    the order of the operations: those on whole buckets, and segments that depend on a parameter's shape
code        the operations of a bucket as a Python function without the machinery of links
bucket      small parameters of any shapes in one buffer, stepped by that function
"""
