"""``scoreline bench --scoring``: what the scoring stage adds to the model, on the device that it finds.

Rows of real text (this repository's own documents, 16 to 256 tokens each text) wait at the scoring stage (``backlog``).
Beside the stage, in turns, each in a process of its own: a bare torch loop (``bare_loop``) over the same rows, with the
same device, dtype, threads, grouping by length and copies, in batches of the manifest's ``max_batch``, but no queue;
and the same loop over batches as they come, each padded to its longest.

===============  ======================================================================================================
``throughput``   one worker drains the backlog; rows a second between two settled batches, after a warm-up
``latency``      20 short rows a second: from claimable to settled, beside the bare loop's time for one such row
``poison``       bursts of 64 rows with and without one that makes the model raise: when the other 63 have ended
``slow_worker``  two workers, one of which is stopped for nine tenths of the time, beside what both could do
===============  ======================================================================================================

``figures`` says how a figure and its goal are reported.
"""
