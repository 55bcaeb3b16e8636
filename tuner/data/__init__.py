"""Images to train on: every source becomes one ``ImageSet``."""

from tuner.data.arrays import read_idx
from tuner.data.images import Announce, ImageSet, silent
from tuner.data.listing import DATA_VARIABLE
from tuner.data.loading import load_images

__all__ = ["DATA_VARIABLE", "Announce", "ImageSet", "load_images", "read_idx", "silent"]
