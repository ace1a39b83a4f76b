"""Stock Celery under the same kills: what its late acks give back, and how soon. ``python -m chaos.stock``.

``app``          the configurations, one row each, and the application that producer and workers make of one
``worker``       the three tasks
``producer``     sends chains at a rate
``stack``        the processes: a Valkey server and two workers a stage; kills them, restarts what died
``notes``        what ran, as the tasks note it
``broker_state`` what the broker and the result backend still hold
``verdict``      the count

A request is a chain of three tasks, one message each, on stock Celery and stock kombu over the same Valkey server at
durability ``process``: prefork, two workers a stage with one child each, JSON, a Redis result backend that keeps every
result, ``acks_late``, one message prefetched. The tasks run the very same stage code as Scoreline, a row at a time. A
producer sends real loan applications (Poisson arrivals) and keeps its own history. A seeded schedule kills pool
children, whole workers and the store with ``kill -9``. What dies is restarted at once, the store after a second.

Neither the broker nor the result backend is trusted to say what ran: every task notes its start and its end in a file
of its process, which survives the process. By these notes and the producer's history (``verdict``), every accepted
request is in exactly one of these:

``ended``      its last task ran to its end; ``twice`` if it did so more than once, ``late`` if 5 s after it was sent
``returning``  not yet, but the broker has its message: in a queue, or in kombu's hash of unacknowledged messages, from
               which it returns after the visibility timeout
``failed``     it will not end, and the result backend says so: a producer that polls is told, and can send it again
``nowhere``    it will not end, and nothing knows of it: lost for good, and its producer waits in vain

What to bear in mind when reading the table:

- A short visibility timeout starts every task that takes longer than it a second time, while it still runs. Each row
  with a short one says how often a single task of one and a half times that length was started, with nothing killed.
  Tasks with an eta or a countdown suffer the same. That is why the default is an hour: what is ``returning`` at the end
  of rows with the default comes back, but not within this run.
- ``task_reject_on_worker_lost`` requeues a request that kills its process for ever; no request here does.
- Half of the kills come at seeded instants whatever the worker does; the others wait until it is in the middle of a
  task (2 s at most). ``affected`` counts the requests that a killed process was running (for the store: all that were
  unfinished). The small model is so fast that kills would hardly ever hit a request: ``--work-ms`` makes scoring take
  longer, by 50 ms unless told otherwise, as a heavier model would.
- Some of what has ended may still be in the unacknowledged hash (``held_though_ended``): its ack was lost with a
  connection. It runs again after the visibility timeout.
- A task that starts the next one while the store is away for longer than Celery retries is ``failed``. A longer
  ``task_publish_retry_policy`` may save some of these. The store dies far more often here than in production.
- Sending is one thread that calls ``apply_async``, as a web process would. While the store is away it blocks and
  retries as Celery does by default; a send that raises is ``unknown``, not accepted, whether it arrived or not.
- Two workers a stage, so that one can take over. Workers run without gossip and mingle, which have no part in this.
- RabbitMQ as a broker redelivers at once what a dead consumer held; this is about Redis.
"""
