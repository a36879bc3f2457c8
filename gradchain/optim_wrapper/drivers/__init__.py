"""Ways of executing a chain over the parameters of a step. ``reference`` is the one that every other must equal.

reference  one parameter at a time, link by link
eager      small parameters of any shapes in one buffer, by generated code (see ``execution``); large ones in tiles of rows;
           others as in the reference
compiled   each parameter by a call of a compiled graph, which serves many shapes of one number of dimensions; a native loop
           makes the calls for small parameters of one shape, if the graph consists of kernels alone; large ones in tiles of
           rows, if links ask for what is next to an element. On a GPU small parameters of one shape run as one, and some
           large ones of a shape in one call
auto       compiled where that is repaid: all parameters are on a GPU that Triton works on, or they are on a CPU with a C++
           compiler and have 4M elements or more in all, each counted for 4,096 at least; otherwise eager

All but the reference hand a chain that is as a whole what a fused kernel of torch computes to that kernel, see ``fused``,
unless it is to be compiled and has large parameters on a GPU, where a graph of its own is faster.

Compiling takes 5 to 40 seconds on a CPU, less in the next process, which finds the graphs in torch's cache. The logger
"gradchain" tells of each graph at level INFO.
"""
