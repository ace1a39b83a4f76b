"""The health of the devices that models run on: what NVML says of a GPU, and what follows from it. Needs no torch."""
