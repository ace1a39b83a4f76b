"""The devices that models run on. Needs no torch.

``nvml``        what the driver says of a GPU
``health``      what follows from it: healthy, suspect or sick
``watch``       the thread of a scoring worker that looks at its device
``each_device`` a machine with several GPUs: one worker for each
"""
