"""Images held out of training, chosen by their content."""

import hashlib

import numpy as np
from numpy.typing import NDArray

from tuner.data.images import Images, ImageSet
from tuner.data.rows import check_memory


def hold_out(found: ImageSet, share: float) -> ImageSet:
    """Move about ``share`` of the images to ``held_out``; the others stay, in their order.

    An image is held out if its hash falls into the lowest ``share`` of all hashes. So equal images
    are never on both sides, and the split does not depend on the order or on other images. Both
    parts are copied into memory: InputError if they do not fit.
    """
    check_memory(found.images.nbytes, "images")
    chosen = is_held_out(found.images, share)
    digest = hashlib.sha256(f"{found.fingerprint} {share!r}".encode()).hexdigest()[:16]
    return found._replace(
        images=found.images[~chosen],
        labels=None if found.labels is None else found.labels[~chosen],
        fingerprint=digest,
        held_out=found.images[chosen],
    )


def is_held_out(images: Images, share: float) -> NDArray[np.bool]:
    """Whether each image (n, h, w, c) is held out: a function of its pixels alone."""
    limit = int(share * 2**64)
    hashes = (hashlib.sha256(image.tobytes()).digest()[:8] for image in images)
    return np.fromiter((int.from_bytes(start) < limit for start in hashes), bool, len(images))
