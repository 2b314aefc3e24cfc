"""Descriptions of the files in benchmarks/results; `write_figures.py` inserts them into its table."""

from __future__ import annotations

WHAT: dict[str, str] = {
    "attention-cost": (
        "time of a training step without the optimizer, and its ratio to a step with uniform weights in the "
        "same round (median over rounds)"
    ),
    "attention-localization": (
        "maps of each attention of the family that was trained at an eighth of the width against object masks, "
        "compared with the uniform control"
    ),
    "attention-transfer": (
        "linear SVM on frozen features of each attention of the family that was trained at an eighth of the width, "
        "compared with the uniform control"
    ),
    "backbones": (
        "linear SVM on frozen features of attention networks, of networks from other libraries with random "
        "weights, of thingsvision with the same random resnet18, and on pixels"
    ),
    "busy": (
        "speed on idle cores and next to a process that keeps one core busy, for different spin times of "
        "waiting threads (medians)"
    ),
    "components": "processor time of the PCA of a fold of pixels, on one thread (medians)",
    "controls": "test accuracy of networks trained with one recipe, and the differences between architectures",
    "data-path": (
        "decoded batches from worker processes in MiB/s, through shared memory and through a pipe, alternating"
    ),
    "domains": (
        "linear SVM on frozen features, with fitting and the choice of C on one domain and the test on "
        "another; the drop is the accuracy within the target domain minus the accuracy across domains, on the "
        "same test images"
    ),
    "faults": (
        "extractions with an injected fault, then the same command again: is the fault detected and named, "
        "and is nothing lost?"
    ),
    "forward-forms": (
        "forward pass in evaluation mode in float32: images/s, and the share of the matrix peak (2 operations "
        "per multiplication, relative to the fastest product of two matrices, measured in every round)"
    ),
    "fuzz": "hostile files, each read in a separate process with 20 s of CPU time and 2.5 GiB",
    "gpu": (
        "measurements and training runs on a GPU, of `vgg-att2-concat-pc` unless a model is named; two commands on "
        "one machine, the second with its own settings for parallel runs and estimated times"
    ),
    "gpu-width-1": (
        "a second campaign on a GPU: the tests, both attention networks at width 1, extraction and the SVM "
        "grid; three commands on one machine"
    ),
    "image-sizes": (
        "linear SVM on the features of one network at several input sizes; the network was trained on 32 × 32 pixels"
    ),
    "kill": (
        "extraction killed at random moments and resumed: are the data sets equal to those of an uninterrupted run?"
    ),
    "localization": (
        "maps against object masks, for every method, network and seed, with controls (centre, Sobel edges, noise, "
        "everything); thresholds are chosen on other images; rows use the true class; slow methods and the predicted "
        "class cover one seed of each architecture and n images"
    ),
    "map-speed": "map methods against the same methods of captum and torch-cam, alternating, on one batch of images",
    "map-speed-64": (
        "map methods against the same methods of captum and torch-cam, alternating, on one batch of images"
    ),
    "memory": "peak memory of an extraction from an image folder, with 2,000 and 20,000 images",
    "memory-resnet18": "peak memory of an extraction with ResNet-18 at 224 pixels, with 600 and 2,400 images",
    "parquet-shuffled": "reading shuffled images from a Parquet file with row groups: images/s and peak memory",
    "partner-rules": "accuracy on 400 held-out images of digits, for different rules of drawing partners",
    "quickstart": "wall-clock time of `l2a-transfer quickstart`, from process start to exit (median)",
    "ray-kill": (
        "the Ray engine, with and without killed actors and nodes, against the local engine: are the data "
        "sets equal, byte for byte?"
    ),
    "recipe-search": (
        "candidates for a training recipe, evaluated on held-out training images; the test images are not read"
    ),
    "recipe-search-hard": (
        "candidates for training hard attention, evaluated on held-out training images; the test images are not read"
    ),
    "recipe-search-random": (
        "candidates for training the control of hard attention, evaluated on held-out training images; the test "
        "images are not read"
    ),
    "robustness": "accuracy under FGSM and PGD, with noise as the control",
    "robustness-fgsm": "accuracy under FGSM, with noise as the control",
    "sanity": "how much maps change when the network is randomized part by part",
    "scaled-decoding": (
        "decoding and resizing JPEG images exactly and at a smaller scale, and the difference between their features"
    ),
    "small-machine": (
        "every command in a container with little memory: does it exit with 0, or with 1 and a message that "
        "says what it needs?"
    ),
    "statistics-check": (
        "simulation of the statistics: false verdicts under a true null hypothesis, and coverage of 95 % intervals"
    ),
    "peer-step": (
        "a training step of SaoYan/LearnToPayAttention's network and one of this package, in turns (medians), and "
        "their ratio in the same round"
    ),
    "study": "linear SVM on frozen features: the planned comparisons of the study of transfer, over training seeds",
    "study-kill": (
        "a study killed at random moments and restarted: is its report equal to that of an uninterrupted study?"
    ),
    "svm-eval-draws": (
        "whole process of `svm-eval` of Caltech-101 with three networks and pixels, ten draws each, compared with an "
        "earlier revision"
    ),
    "svm_complexity": "time of the SVM grid by rows, columns, classes, folds and C, varied one at a time",
    "svm_parity": "`BatchedLinearSVC` at its default tolerance against `LinearSVC(dual=False, tol=1e-8)`",
    "svm_speed": "our grid search against scikit-learn's `LinearSVC`",
    "svm_streaming": "growth of a process's peak resident memory during a fit, relative to `max_memory`",
    "thingsvision": "thingsvision and l2a-transfer with the same images and network: images/s and peak memory",
    "thingsvision-resnet18": (
        "thingsvision and l2a-transfer with the same images and network: images/s and peak memory"
    ),
    "throughput-w025": (
        "extraction from JPEG files to a complete HDF5 file, relative to the forward pass alone with the same "
        "network and batches"
    ),
    "throughput-w100": (
        "extraction from JPEG files to a complete HDF5 file, relative to the forward pass alone with the same "
        "network and batches"
    ),
    "time-to-accuracy": "training time of a recipe, and test accuracy after its last epoch",
    "train-kill": (
        "training killed at random moments and resumed: are the tensors equal to those of an uninterrupted run?"
    ),
    "train-precision": (
        "training steps in float32 and bfloat16 in turns: images/s, and the share of the matrix peak of the same "
        "precision and run"
    ),
    "train-step": "training steps: images/s, and the share of the matrix peak of the same run",
    "transfer": (
        "linear SVM on frozen features of data sets that the network has never seen, and the run time of "
        "`svm-eval` including start and report"
    ),
    "tvmax": (
        "TVmax forward and backward on a batch of normal or trained scores, against a reference that takes one image "
        "at a time; and a training step with tvmax:0.1 against one with softmax (medians of paired rounds)"
    ),
    "two-at-once": (
        "two commands write the same output at once: does one finish completely, and is the other rejected?"
    ),
}
"""Result file without suffix → description. A file without an entry is described by its own `what`."""
