"""Ways of executing a chain over the parameters of a step. ``reference`` is the one that every other must equal.

reference  one parameter at a time, link by link
eager      nothing is built: small parameters of any shapes in one buffer, by generated Python; large ones in tiles of rows;
           others one by one
auto       on a CPU, C++ functions: a chain is traced once for each shape, its operations on elements are joined into few
           loops, and one call steps all parameters where they are. Matrix products, decompositions and Fourier transforms
           are calls of torch between them. Large parameters whose chain looks at neighbors go to compiled graphs in tiles of
           rows, from 4M elements in all, each parameter counted for 4,096 at least. On a GPU that Triton works on, compiled
           graphs: small parameters of one shape run as one, and some large ones of a shape in one call. Elsewhere as eager
compiled   the same, and compiled graphs whatever the sizes

All but the reference hand a chain that is as a whole what a fused kernel of torch computes to that kernel, see ``fused``,
unless it is to be compiled and has large parameters on a GPU, where a graph of its own is faster.

The C++ functions need g++ or clang++. One takes 0.1 to 0.5 seconds to build, several at a time, and is kept for the next
process in the folder ``gradchain`` of the user's cache, or in ``GRADCHAIN_CACHE_DIR``. A compiled graph takes 5 to 20 seconds
on a CPU, less in the next process, which finds it in torch's cache. The logger "gradchain" tells of both at level INFO.
"""
