"""The sets that torchvision reads: description, authors, terms of use, and torchvision's options for the splits."""

from __future__ import annotations

from pathlib import Path

from l2a_transfer.data.registry import DatasetSpec, register_dataset
from l2a_transfer.data.sources import ImageSource


def _torchvision(
    name: str,
    loader: str,
    title: str,
    size: tuple[int, int],
    splits: dict[str, dict[str, object]],
    licence: str,
    citation: str,
    *,
    folder: str = "",
    downloads: bool = True,
) -> DatasetSpec:
    options = tuple((split, tuple(values.items())) for split, values in splits.items())
    return DatasetSpec(
        name=name,
        title=title,
        images=size[0],
        classes=size[1],
        splits=tuple(splits),
        licence=licence,
        citation=citation,
        folder=folder or f"torchvision's files of {loader}",
        loader=loader,
        split_options=options,
        downloads=downloads,
    )


def _by_split(*splits: str) -> dict[str, dict[str, object]]:
    return {split: {"split": split} for split in splits}


TRAIN_FLAG: dict[str, dict[str, object]] = {"train": {"train": True}, "test": {"train": False}}
UNSTATED = "not stated; research use"

_SETS = (
    _torchvision(
        "svhn",
        "SVHN",
        "Street View House Numbers, 32 × 32 px",
        (99289, 10),
        _by_split("train", "test"),
        "non-commercial use",
        "Netzer, Wang, Coates, Bissacco, Wu, Ng: Reading Digits in Natural Images "
        "with Unsupervised Feature Learning, NIPS workshop 2011",
        folder="train_32x32.mat and test_32x32.mat",
    ),
    _torchvision(
        "fashion-mnist",
        "FashionMNIST",
        "Fashion-MNIST, 28 × 28 px, grey",
        (70000, 10),
        TRAIN_FLAG,
        "MIT",
        "Xiao, Rasul, Vollgraf: Fashion-MNIST, arXiv 1708.07747, 2017",
        folder="FashionMNIST/raw/",
    ),
    _torchvision(
        "mnist",
        "MNIST",
        "MNIST, 28 × 28 px, grey",
        (70000, 10),
        TRAIN_FLAG,
        "CC BY-SA 3.0",
        "LeCun, Bottou, Bengio, Haffner: Gradient-based learning applied to document recognition, 1998",
        folder="MNIST/raw/",
    ),
    _torchvision(
        "kmnist",
        "KMNIST",
        "Kuzushiji-MNIST, 28 × 28 px, grey",
        (70000, 10),
        TRAIN_FLAG,
        "CC BY-SA 4.0",
        "Clanuwat et al.: Deep Learning for Classical Japanese Literature, arXiv 1812.01718, 2018",
    ),
    _torchvision(
        "usps",
        "USPS",
        "USPS digits, 16 × 16 px, grey",
        (9298, 10),
        TRAIN_FLAG,
        UNSTATED,
        "Hull: A database for handwritten text recognition research, TPAMI 1994",
    ),
    _torchvision(
        "stl10",
        "STL10",
        "STL-10, 96 × 96 px",
        (13000, 10),
        _by_split("train", "test"),
        UNSTATED,
        "Coates, Lee, Ng: An Analysis of Single-Layer Networks in Unsupervised Feature Learning, AISTATS 2011",
    ),
    _torchvision(
        "eurosat",
        "EuroSAT",
        "EuroSAT land use from Sentinel-2, 64 × 64 px",
        (27000, 10),
        {"all": {}},
        "MIT",
        "Helber, Bischke, Dengel, Borth: EuroSAT, JSTARS 2019",
    ),
    _torchvision(
        "dtd",
        "DTD",
        "Describable Textures, partition 1",
        (5640, 47),
        _by_split("train", "val", "test"),
        "research use",
        "Cimpoi, Maji, Kokkinos, Mohamed, Vedaldi: Describing Textures in the Wild, CVPR 2014",
    ),
    _torchvision(
        "flowers102",
        "Flowers102",
        "Oxford 102 Flowers",
        (8189, 102),
        _by_split("train", "val", "test"),
        UNSTATED,
        "Nilsback, Zisserman: Automated Flower Classification over a Large Number of Classes, ICVGIP 2008",
    ),
    _torchvision(
        "pets",
        "OxfordIIITPet",
        "Oxford-IIIT Pets",
        (7349, 37),
        _by_split("trainval", "test"),
        "CC BY-SA 4.0",
        "Parkhi, Vedaldi, Zisserman, Jawahar: Cats and Dogs, CVPR 2012",
    ),
    _torchvision(
        "food101",
        "Food101",
        "Food-101",
        (101000, 101),
        _by_split("train", "test"),
        UNSTATED,
        "Bossard, Guillaumin, Van Gool: Food-101, ECCV 2014",
    ),
    _torchvision(
        "aircraft",
        "FGVCAircraft",
        "FGVC Aircraft, variants",
        (10000, 100),
        _by_split("train", "val", "test"),
        "research use",
        "Maji, Kannala, Rahtu, Blaschko, Vedaldi: Fine-Grained Visual Classification of Aircraft, 2013",
    ),
    _torchvision(
        "cars",
        "StanfordCars",
        "Stanford Cars",
        (16185, 196),
        _by_split("train", "test"),
        "research use",
        "Krause, Stark, Deng, Fei-Fei: 3D Object Representations for Fine-Grained Categorization, 2013",
        downloads=False,
    ),
    _torchvision(
        "gtsrb",
        "GTSRB",
        "German traffic signs",
        (39270, 43),
        _by_split("train", "test"),
        UNSTATED,
        "Stallkamp, Schlipsing, Salmen, Igel: Man vs. computer, Neural Networks 2012",
    ),
    _torchvision(
        "sun397",
        "SUN397",
        "SUN scenes",
        (108754, 397),
        {"all": {}},
        "research use",
        "Xiao, Hays, Ehinger, Oliva, Torralba: SUN Database, CVPR 2010",
    ),
    _torchvision(
        "country211",
        "Country211",
        "Country of a photograph",
        (63300, 211),
        _by_split("train", "valid", "test"),
        "per image, from YFCC100M",
        "Radford et al.: Learning Transferable Visual Models From Natural Language Supervision, ICML 2021",
    ),
    _torchvision(
        "imagenette",
        "Imagenette",
        "Ten easy classes of ImageNet",
        (13394, 10),
        _by_split("train", "val"),
        "Apache 2.0 (the selection)",
        "Howard: Imagenette, 2019",
    ),
    _torchvision(
        "caltech256",
        "Caltech256",
        "Caltech-256 with its clutter class",
        (30607, 257),
        {"all": {}},
        "CC BY 4.0",
        "Griffin, Holub, Perona: Caltech 256, CaltechDATA 2022, doi 10.22002/D1.20087",
    ),
    _torchvision(
        "pcam",
        "PCAM",
        "PatchCamelyon, 96 × 96 px",
        (327680, 2),
        _by_split("train", "val", "test"),
        "CC0",
        "Veeling, Linmans, Winkens, Cohen, Welling: Rotation Equivariant CNNs for Digital Pathology, 2018",
    ),
    _torchvision(
        "fer2013",
        "FER2013",
        "Facial expressions, 48 × 48 px, grey",
        (35887, 7),
        _by_split("train", "test"),
        "research use",
        "Goodfellow et al.: Challenges in Representation Learning, ICONIP 2013",
        downloads=False,
    ),
)


def _open(spec: DatasetSpec, data_dir: Path, download: bool) -> ImageSource:
    """Open one of the sets above with `open_torchvision`, which imports torchvision."""
    from l2a_transfer.data.torchvision_sets import open_torchvision

    return open_torchvision(spec, data_dir, download=download)


for _spec in _SETS:
    register_dataset(_spec)(_open)
