"""The table of named data sets: what each is, whose, under which terms, how it is split, and where its files lie."""

from __future__ import annotations

from dataclasses import dataclass

from l2a_transfer.errors import unknown_name

NO_SPLIT = ("all",)


@dataclass(frozen=True)
class DatasetSpec:
    """One named data set.

    `images`, `classes`: what its authors published, for a check against what is found (0: not checked). `folder`:
    what `--data-dir` must hold; empty where nothing is needed. `loader`: the torchvision class that reads it, or
    empty where this package does. `split_options`: split → that class's options.
    """

    name: str
    title: str
    images: int
    classes: int
    splits: tuple[str, ...]
    licence: str
    citation: str
    folder: str = ""
    loader: str = ""
    split_options: tuple[tuple[str, tuple[tuple[str, object], ...]], ...] = ()
    downloads: bool = True

    @property
    def needs_data_dir(self) -> bool:
        return bool(self.folder)


def _torchvision(
    name: str, loader: str, title: str, size: tuple[int, int], splits: dict[str, dict[str, object]],
    licence: str, citation: str, *, folder: str = "", downloads: bool = True,
) -> DatasetSpec:  # fmt: skip
    options = tuple((split, tuple(values.items())) for split, values in splits.items())
    return DatasetSpec(
        name, title, *size, tuple(splits), licence, citation, folder or f"torchvision's files of {loader}", loader,
        options, downloads,
    )  # fmt: skip


def _by_split(*splits: str) -> dict[str, dict[str, object]]:
    return {split: {"split": split} for split in splits}


TRAIN_FLAG: dict[str, dict[str, object]] = {"train": {"train": True}, "test": {"train": False}}
UNSTATED = "not stated; research use"

_ROWS = (
    DatasetSpec(
        "caltech-mini", "20 classes of Caltech-101, shorter side 48 px; ships with the package", 1200, 20,
        ("train", "test"), "CC BY 4.0",
        "Li, Andreeto, Ranzato, Perona: Caltech 101, CaltechDATA 2022, doi 10.22002/D1.20086", downloads=False,
    ),
    DatasetSpec(
        "digits", "scikit-learn's handwritten digits, 8 × 8 px; ships with scikit-learn", 1797, 10, NO_SPLIT,
        "CC BY 4.0", "Alpaydin, Kaynak: Optical Recognition of Handwritten Digits, UCI 1998, doi 10.24432/C50P49",
        downloads=False,
    ),
    DatasetSpec(
        "cifar10", "CIFAR-10, 32 × 32 px", 60000, 10, ("train", "test"), "no formal licence",
        "Krizhevsky: Learning Multiple Layers of Features from Tiny Images, 2009", "cifar-10-batches-py/",
    ),
    DatasetSpec(
        "cifar100", "CIFAR-100, 32 × 32 px, fine labels", 60000, 100, ("train", "test"), "no formal licence",
        "Krizhevsky: Learning Multiple Layers of Features from Tiny Images, 2009", "cifar-100-python/",
    ),
    DatasetSpec(
        "caltech101", "Caltech-101 without its background class", 8677, 101, NO_SPLIT, "CC BY 4.0",
        "Li, Andreeto, Ranzato, Perona: Caltech 101, CaltechDATA 2022, doi 10.22002/D1.20086",
        "caltech101/101_ObjectCategories/",
    ),
    DatasetSpec(
        "stanford40", "Stanford 40 Actions (Action-40)", 9532, 40, ("train", "test"), "research use",
        "Yao, Jiang, Khosla, Lin, Guibas, Fei-Fei: Human Action Recognition by Learning Bases of Action Attributes "
        "and Parts, ICCV 2011", "stanford40/JPEGImages/ and stanford40/ImageSplits/",
    ),
    DatasetSpec(
        "svhn1083", "the first 1,083 crops of SVHN's training file, 700 / 383", 1083, 10, ("train", "test"),
        "non-commercial use", "Netzer, Wang, Coates, Bissacco, Wu, Ng: Reading Digits in Natural Images with "
        "Unsupervised Feature Learning, NIPS workshop 2011", "svhn1083/{train,test}/<digit>/", downloads=False,
    ),
    _torchvision("svhn", "SVHN", "Street View House Numbers, 32 × 32 px", (99289, 10), _by_split("train", "test"),
                 "non-commercial use", "Netzer, Wang, Coates, Bissacco, Wu, Ng: Reading Digits in Natural Images "
                 "with Unsupervised Feature Learning, NIPS workshop 2011",
                 folder="train_32x32.mat and test_32x32.mat"),
    _torchvision("fashion-mnist", "FashionMNIST", "Fashion-MNIST, 28 × 28 px, grey", (70000, 10), TRAIN_FLAG, "MIT",
                 "Xiao, Rasul, Vollgraf: Fashion-MNIST, arXiv 1708.07747, 2017", folder="FashionMNIST/raw/"),
    _torchvision("mnist", "MNIST", "MNIST, 28 × 28 px, grey", (70000, 10), TRAIN_FLAG, "CC BY-SA 3.0",
                 "LeCun, Bottou, Bengio, Haffner: Gradient-based learning applied to document recognition, 1998",
                 folder="MNIST/raw/"),
    _torchvision("kmnist", "KMNIST", "Kuzushiji-MNIST, 28 × 28 px, grey", (70000, 10), TRAIN_FLAG, "CC BY-SA 4.0",
                 "Clanuwat et al.: Deep Learning for Classical Japanese Literature, arXiv 1812.01718, 2018"),
    _torchvision("usps", "USPS", "USPS digits, 16 × 16 px, grey", (9298, 10), TRAIN_FLAG, UNSTATED,
                 "Hull: A database for handwritten text recognition research, TPAMI 1994"),
    _torchvision("stl10", "STL10", "STL-10, 96 × 96 px", (13000, 10), _by_split("train", "test"), UNSTATED,
                 "Coates, Lee, Ng: An Analysis of Single-Layer Networks in Unsupervised Feature Learning, "
                 "AISTATS 2011"),
    _torchvision("eurosat", "EuroSAT", "EuroSAT land use from Sentinel-2, 64 × 64 px", (27000, 10), {"all": {}},
                 "MIT", "Helber, Bischke, Dengel, Borth: EuroSAT, JSTARS 2019"),
    _torchvision("dtd", "DTD", "Describable Textures, partition 1", (5640, 47), _by_split("train", "val", "test"),
                 "research use", "Cimpoi, Maji, Kokkinos, Mohamed, Vedaldi: Describing Textures in the Wild, "
                 "CVPR 2014"),
    _torchvision("flowers102", "Flowers102", "Oxford 102 Flowers", (8189, 102), _by_split("train", "val", "test"),
                 UNSTATED, "Nilsback, Zisserman: Automated Flower Classification over a Large Number of Classes, "
                 "ICVGIP 2008"),
    _torchvision("pets", "OxfordIIITPet", "Oxford-IIIT Pets", (7349, 37), _by_split("trainval", "test"),
                 "CC BY-SA 4.0", "Parkhi, Vedaldi, Zisserman, Jawahar: Cats and Dogs, CVPR 2012"),
    _torchvision("food101", "Food101", "Food-101", (101000, 101), _by_split("train", "test"), UNSTATED,
                 "Bossard, Guillaumin, Van Gool: Food-101, ECCV 2014"),
    _torchvision("aircraft", "FGVCAircraft", "FGVC Aircraft, variants", (10000, 100),
                 _by_split("train", "val", "test"), "research use",
                 "Maji, Kannala, Rahtu, Blaschko, Vedaldi: Fine-Grained Visual Classification of Aircraft, 2013"),
    _torchvision("cars", "StanfordCars", "Stanford Cars", (16185, 196), _by_split("train", "test"), "research use",
                 "Krause, Stark, Deng, Fei-Fei: 3D Object Representations for Fine-Grained Categorization, 2013",
                 downloads=False),
    _torchvision("gtsrb", "GTSRB", "German traffic signs", (39270, 43), _by_split("train", "test"), UNSTATED,
                 "Stallkamp, Schlipsing, Salmen, Igel: Man vs. computer, Neural Networks 2012"),
    _torchvision("sun397", "SUN397", "SUN scenes", (108754, 397), {"all": {}}, "research use",
                 "Xiao, Hays, Ehinger, Oliva, Torralba: SUN Database, CVPR 2010"),
    _torchvision("country211", "Country211", "Country of a photograph", (63300, 211),
                 _by_split("train", "valid", "test"), "per image, from YFCC100M",
                 "Radford et al.: Learning Transferable Visual Models From Natural Language Supervision, ICML 2021"),
    _torchvision("imagenette", "Imagenette", "Ten easy classes of ImageNet", (13394, 10), _by_split("train", "val"),
                 "Apache 2.0 (the selection)", "Howard: Imagenette, 2019"),
    _torchvision("caltech256", "Caltech256", "Caltech-256 with its clutter class", (30607, 257), {"all": {}},
                 "CC BY 4.0", "Griffin, Holub, Perona: Caltech 256, CaltechDATA 2022, doi 10.22002/D1.20087"),
    _torchvision("pcam", "PCAM", "PatchCamelyon, 96 × 96 px", (327680, 2), _by_split("train", "val", "test"),
                 "CC0", "Veeling, Linmans, Winkens, Cohen, Welling: Rotation Equivariant CNNs for Digital Pathology, "
                 "2018"),
    _torchvision("fer2013", "FER2013", "Facial expressions, 48 × 48 px, grey", (35887, 7),
                 _by_split("train", "test"), "research use",
                 "Goodfellow et al.: Challenges in Representation Learning, ICONIP 2013", downloads=False),
)  # fmt: skip

DATASETS: dict[str, DatasetSpec] = {row.name: row for row in _ROWS}
KINDS = ("imagefolder:PATH", "npz:FILE", "wds:PATH", "parquet:PATH")


def find_dataset(name: str) -> DatasetSpec:
    """The row called `name`. Raises: UnknownNameError with the nearest name."""
    if name not in DATASETS:
        raise unknown_name("data set", name, [*DATASETS, *KINDS])
    return DATASETS[name]
