"""How soon a position becomes a prediction, what waiting costs, and what a change of model disturbs.

Three processes on two CPUs: ``redis-server``, ``etacore run``, and one that
holds the producer and the reader, on a connection each. The producer is open
loop: it writes by a schedule that waits for nothing. The reader hears of
predictions by client tracking and dates each by the arrival of its
announcement.

``python -m benchmarks.freshness`` writes ``results/freshness.json``, ``.md`` and ``.png``.
"""
