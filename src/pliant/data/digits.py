"""digits: 1,797 grey images of 8x8 pixels that come with scikit-learn; nothing to fetch."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from pliant.data.augment import RandomCrop
from pliant.data.base import Dataset, Split, stratified_mask
from pliant.data.optional import require

if TYPE_CHECKING:
    import os

_TEST_IMAGES = 497
_SEED = 0


def digits(root: str | os.PathLike[str] | None = None) -> Dataset:  # noqa: ARG001 - every loader takes a root
    """Load the digits: 1,300 training and 497 test images, a fixed class-stratified split.

    The grey levels 0 to 16 become ``round(level * 255 / 16)``.

    Args:
        root: ignored, the images are inside scikit-learn.

    Raises:
        MissingExtraError: scikit-learn is not installed.

    Reference:
        E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits, UCI (1998), test part.
    """
    source = require("sklearn.datasets").load_digits()
    levels = np.rint(source.images * (255 / 16)).astype(np.uint8)
    whole = Split(torch.from_numpy(levels)[:, None], torch.from_numpy(source.target.astype(np.int64)))
    held = stratified_mask(whole.labels, _TEST_IMAGES, seed=_SEED)
    return Dataset(
        name="digits",
        train=whole.subset((~held).nonzero().flatten()),
        test=whole.subset(held.nonzero().flatten()),
        classes=tuple("0123456789"),
        mean=(0.3061,),
        std=(0.3760,),
        augmentation=(RandomCrop(padding=1),),
    )
