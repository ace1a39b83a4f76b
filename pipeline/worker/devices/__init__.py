"""The health of the devices that models run on; needs no torch.

``nvml``   what the NVIDIA driver says of a GPU
``health`` whether a device is healthy, suspect or sick
"""
