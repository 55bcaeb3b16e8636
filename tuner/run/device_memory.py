"""The device memory of this process, and the part of it that images may take."""

import os

import jax

from tuner import environment

IMAGE_SHARE = 0.4  # of the device's memory for images


def image_memory() -> float:
    """Bytes of device memory for images: TUNER_IMAGE_MEMORY, or by default a share of the memory.

    A larger image set is streamed from the host.
    """
    given = environment.image_memory()
    return IMAGE_SHARE * device_memory() if given is None else given


def device_memory() -> int:
    """Bytes of device memory that this process may use; of a CPU, the machine's memory."""
    found = jax.devices()[0].memory_stats() or {}
    if "bytes_limit" in found:
        return int(found["bytes_limit"])
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
