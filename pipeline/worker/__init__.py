"""What every worker does, whatever its stage.

``runner``      answers a bell: claims a batch, has the batches run, parks for more, leaves
``batches``     the life of a batch by its steps: stage, launch, collect, judge, settle
``run``         what is known of a batch between two steps
``guard``       the border to the stage's own code
``judge``       the life story of a failing request: which are retried, and which end
``incarnation`` the name under which a worker claims, and what operators see of it
``heartbeat``   keeps the claims of that name its own
``slots``       what children report to their parent
``reporting``   events about the requests of a batch
``devices/``    the health of GPUs
"""
