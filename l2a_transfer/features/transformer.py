"""Attended features as a scikit-learn transformer: pictures in, one row of features per picture out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from sklearn.base import BaseEstimator, TransformerMixin

from l2a_transfer.data.decode import decode_file
from l2a_transfer.data.loader import choose_workers, pixel_batches
from l2a_transfer.data.objects import check_pictures, picture_of
from l2a_transfer.errors import ArgumentError, wrong_kind
from l2a_transfer.features.backends.interface import FeatureBackend, feature_width
from l2a_transfer.features.backends.registry import open_backend

if TYPE_CHECKING:
    from l2a_transfer.models.interface import Network
    from l2a_transfer.models.weights import Card

EXPECTED = "uint8 images (N, H, W, 3) or (N, H, W), or a sequence of paths, Pillow images or uint8 arrays"
DEFAULT_MODEL = "vgg-att2-concat-pc.cifar10-w025"


@dataclass(frozen=True)
class _Pictures:
    """The pictures of X by row, with the interface that decoding processes need."""

    items: Any
    name: str = "X"

    @property
    def ids(self) -> tuple[str, ...]:
        return tuple(f"row {row}" for row in range(len(self.items)))

    def image(self, row: int) -> Image.Image:
        item = self.items[row]
        return decode_file(Path(item)) if isinstance(item, (str, Path)) else picture_of(item, f"X: row {row}")


class AttentionFeatures(TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """A scikit-learn transformer that extracts the features of a frozen network.

    `fit` learns nothing. It checks the parameters and X, and opens the model. `transform` may be called without it.

    Parameters
    ----------
    model : str, Path, Network or (Network, Card), default="vgg-att2-concat-pc.cifar10-w025"
        A model, as for `open_backend`. With a name or a path, an unfitted transformer is cheap to clone and can be
        pickled; a fitted one contains its weights.
    levels : str or sequence of str, optional
        The levels to extract, such as "L3" or ("L2", "L3"). By default, all.
    tap : {"ga", "ga-bn-relu", "local"}, default="ga"
        The attention outputs g_a; g_a after batch norm and ReLU, the input of the classifier; or the mean over the
        positions of the local features, which every network has at L1, L2 and L3.
    device : {"auto", "cpu", "cuda"}, default="auto"
        "auto" uses a GPU if there is one.
    precision : {"auto", "fp32", "bf16", "fp16"}, default="auto"
        "auto" is fp32.
    batch_size : int, default=64
        Images per forward pass. It can change the last bits of a feature.
    workers : int, optional, default=0
        Number of decoding processes. 0 decodes in the main process; None chooses automatically.
    seed : int, default=0
        Random seed of untrained weights.

    Attributes
    ----------
    backend_ : FeatureBackend
        The backend that computes the features.
    levels_ : tuple
        (name, start, stop) of each level's columns.

    Notes
    -----
    X is uint8 images (N, H, W, 3) or (N, H, W), or a sequence of paths, Pillow images or uint8 arrays. Tables of
    numbers, the usual input in scikit-learn, are rejected. A parameter search computes the same features in every fit.
    If only later steps vary, give the Pipeline a `memory` to cache them.

    Examples
    --------
    >>> import numpy as np
    >>> from l2a_transfer import AttentionFeatures
    >>> images = np.zeros((4, 32, 32, 3), dtype=np.uint8)
    >>> features = AttentionFeatures("untrained:vgg-att2-concat-pc@0.0625", levels="L3", device="cpu")
    >>> features.fit_transform(images).shape
    (4, 32)
    >>> features.get_feature_names_out()[:2].tolist()
    ['L3_0', 'L3_1']
    """

    def __init__(
        self,
        model: str | Path | Network | tuple[Network, Card] = DEFAULT_MODEL,
        *,
        levels: str | Sequence[str] | None = None,
        tap: str = "ga",
        device: str = "auto",
        precision: str = "auto",
        batch_size: int = 64,
        workers: int | None = 0,
        seed: int = 0,
    ) -> None:
        self.model = model
        self.levels = levels
        self.tap = tap
        self.device = device
        self.precision = precision
        self.batch_size = batch_size
        self.workers = workers
        self.seed = seed

    def fit(self, X: Any, y: Any = None) -> AttentionFeatures:
        """Check the parameters and X, and open the model.

        Parameters
        ----------
        X : array-like
            Pictures; see the class.
        y : ignored

        Returns
        -------
        AttentionFeatures
            Itself.

        Raises
        ------
        TypeError, ValueError
            If X does not contain pictures.
        UnknownNameError
            For a model or level that does not exist.
        """
        pictures_of(X)
        self.backend_ = self._opened()
        self.levels_ = self.backend_.levels
        return self

    def transform(self, X: Any) -> NDArray[np.float32]:
        """The features of each picture.

        Parameters
        ----------
        X : array-like
            Pictures; see the class.

        Returns
        -------
        ndarray
            (N, D), float32.

        Raises
        ------
        TypeError, ValueError
            If X does not contain pictures.
        DataError
            If a picture cannot be used. The message names its file or row.
        """
        pictures, backend = pictures_of(X), self._open()
        N = len(pictures.items)
        found = np.empty((N, feature_width(backend)), dtype=np.float32)
        batches = [range(start, min(start + self.batch_size, N)) for start in range(0, N, self.batch_size)]
        workers = choose_workers(N, self.workers)
        source: Any = pictures
        pixels = pixel_batches(source, backend.preprocess, batches, workers=workers)
        for rows, computed in zip(batches, backend.stream(_images(pixels)), strict=True):
            found[rows.start : rows.stop] = computed.features
        return found

    def get_feature_names_out(self, input_features: Any = None) -> NDArray[Any]:
        """The names of the columns: level and number, such as `L3_0`.

        Parameters
        ----------
        input_features : ignored

        Returns
        -------
        ndarray
            (D,), str objects.
        """
        names = [f"{name}_{k}" for name, start, stop in self._open().levels for k in range(stop - start)]
        return np.array(names, dtype=object)

    def _open(self) -> FeatureBackend:
        """The model of `fit`, or a new one if `fit` was not called, because only `fit` may change the estimator."""
        found: FeatureBackend | None = getattr(self, "backend_", None)
        return self._opened() if found is None else found

    def _opened(self) -> FeatureBackend:
        if isinstance(self.batch_size, bool) or not isinstance(self.batch_size, (int, np.integer)):
            raise wrong_kind("batch_size", "an integer", self.batch_size)
        if self.batch_size < 1:
            raise ArgumentError(f"batch_size must be at least 1, got {self.batch_size}")
        return open_backend(
            self.model,
            device=self.device,
            precision=self.precision,
            tap=self.tap,
            levels=[self.levels] if isinstance(self.levels, str) else self.levels,
            seed=self.seed,
        )

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.one_d_array = tags.input_tags.three_d_array = tags.input_tags.string = True
        tags.input_tags.two_d_array = False
        tags.transformer_tags.preserves_dtype = []
        tags.requires_fit = False
        return tags


def pictures_of(X: Any) -> _Pictures:
    """The pictures of X. Raises: TypeError and ValueError for anything else, before any is decoded."""
    if isinstance(X, np.ndarray) and X.dtype.kind not in "UO":
        check_pictures(X)
        items: Any = X
    elif isinstance(X, (str, bytes, Path, Image.Image, dict)) or not hasattr(X, "__len__"):
        raise wrong_kind("X", EXPECTED, X)
    else:
        items = [X[row] for row in range(len(X))] if not hasattr(X, "__iter__") else list(X)
        for row, item in enumerate(items):
            if not isinstance(item, (str, Path, Image.Image)) and not hasattr(item, "__array__"):
                raise wrong_kind(f"row {row} of X", "a path, a Pillow image or a uint8 array", item)
    if not len(items):
        raise ValueError(f"X must be {EXPECTED}; got 0 pictures")
    return _Pictures(items)


def _images(pixels: Iterator[Any]) -> Iterator[NDArray[np.uint8]]:
    for images_u8, _ in pixels:
        yield images_u8
