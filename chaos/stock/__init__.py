"""The same kills against stock Celery: what its late acks give, and after how long. ``python -m chaos.stock``.

A chain of three tasks a request, one message each, on stock Celery and stock kombu over the same Valkey server at
durability ``process``: prefork, two workers a stage with one child each, JSON, a Redis result backend that keeps every
result, ``acks_late``, one message prefetched. The tasks run the very same stage code as Scoreline, a row at a time. A
producer sends real loan applications (Poisson arrivals) and keeps its own history; a seeded schedule kills pool
children, whole workers and the store with ``kill -9``; what dies is started again at once, the store after a second.

Neither the broker nor the result backend is believed about what ran: every task notes its start and its end in a file
of its process, which survives the process. From these notes and the producer's history (``verdict``) every accepted
request is in exactly one of these:

``ended``      its last task ran to its end; ``twice`` if it did so more than once, ``late`` if 5 s after it was sent
``returning``  not yet, but the broker has its message: in a queue, or in kombu's hash of what is unacknowledged, from
               which it returns after the visibility timeout
``failed``     it will not end, and the result backend says so: who polls for it is told, and can send it again
``nowhere``    it will not end, and nothing knows of it: lost for good, and its producer waits in vain

What to bear in mind when reading the table:

- A short visibility timeout runs every task again that takes longer than it, while it runs. The row that has one says
  how often a single task of one and a half times that length was started, with nothing killed. Eta and countdown tasks
  suffer the same. That is why the default is an hour; what is ``returning`` at the end of rows with the default comes
  back by itself, but not within this run.
- ``task_reject_on_worker_lost`` puts a request that kills its process back for ever; nothing here is such a request.
- Half of the kills fall at seeded instants whatever the worker does, the others wait there until it is in the middle
  of a task (2 s at most). ``struck`` counts the requests that a killed process was running (for the store: that were
  under way). The small model takes so little time that kills would hardly ever strike one: ``--work-ms`` makes scoring
  take longer, by 50 ms unless told, as a heavier model would.
- Of what has ended, some may still stand in the unacknowledged hash (``held_though_ended``): an ack that was lost with
  a connection. They run again after the visibility timeout.
- A task that hands on to the next while the store is away for longer than Celery retries is ``failed``. A longer
  ``task_publish_retry_policy`` may save some of these. The store dies far more often here than in life.
- Sending is one thread that calls ``apply_async``, as a web process would. While the store is away it blocks and
  retries as Celery does by default; a send that raises is ``unknown``, not accepted, whether or not it has arrived.
- Two workers a stage, so that one can take over. Workers run without gossip and mingle, which have no part in this.
- RabbitMQ as a broker gives back what a dead consumer held at once; this is about Redis.
"""
