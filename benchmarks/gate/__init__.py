"""The performance gate: instruction counts of the kernels held against budgets, and two trees side by side.

``python -m benchmarks.gate --help``; docs/performance-gate.md says how to use it elsewhere.

The modules, from the inside out: `workloads` is what is measured; `worker` measures it, in a process of its own that
imports the ``etacore`` of one source tree; `callgrind` and `timing` run workers; `trees` makes the tree of a commit;
`budgets` and `compare` judge; `prove` slows kernels down and looks whether that is seen.
"""
