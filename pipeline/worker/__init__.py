"""What every worker does, whatever its stage.

``runner``      serves a lane that has work: claim, perform, judge, settle
``judge``       what becomes of a request whose stage raised, or whose process died
``incarnation`` the name under which a worker claims, and its heartbeat
``slots``       what its children tell their parent
``devices/``    the health of GPUs
"""
