"""Celery, and the composition root: the only package that may import the three stages together.

``app``, ``broker``     the Celery app, its three tasks, and the connection to the broker
``worker``, ``children`` a worker service, and its watch over the pool's children
``child``               what runs in a child: one runner for its stage
``watchdog``, ``standby`` end a worker that receives no bell; let a spare worker claim while others are missing
``stages``              a stage's name becomes its service
``flower``              Flower over this app
``proof``, ``publish``  run a model's example through all three stages before the model is released; they are here
                        because nothing below this package may import more than one stage
"""
