"""Random numbers as a function of named keys: (seed, what is drawn, where), so that no two draws are ever the same."""

import hashlib
from enum import StrEnum, auto

import torch


class Draw(StrEnum):
    """What random numbers are drawn for. Each name is used by one draw of the package."""

    ADAPTIVE_STEPS = auto()  # noise on which they are calibrated
    BASELINE_CHECK = auto()  # inputs on which the teacher in onnxruntime is held against itself
    CALIBRATION = auto()  # noise of the trajectories on which activations are observed
    CLASSIFIER = auto()  # batches of the classifier that judges
    CONDITIONS = auto()  # from the data set, to draw samples for
    DATASET = auto()  # noise of a data set that is drawn from the teacher
    DECODER_CALIBRATION = auto()  # latents on which a decoder's ranges are set
    EXPORT_CHECK = auto()  # inputs on which an exported file is held against its model
    FACTORIZE = auto()
    FORECAST = auto()
    FORECAST_WALK = auto()
    GPTQ = auto()  # positions of a map at which layers are read
    HELD_OUT = auto()  # noise of training's held-out images
    IMPORTANCE = auto()
    INPUTS_READ = auto()
    ITEMS = auto()  # of a data set, beside whatever else is drawn under the same key
    NEW_NET = auto()
    NEW_STUDENT = auto()
    PARTS_CHECK = auto()  # inputs on which exported parts around a net are held against themselves
    POINTS = auto()  # of trajectories: which steps of which samples
    PROBE = auto()
    PROMPTS = auto()  # the order of those of a file
    QAT = auto()  # noise of the trajectories on which weights are trained under rounding
    RANDOM_IMPORTANCE = auto()
    RECOVERY = auto()  # batches on which blocks are compared
    REFERENCE = auto()  # noise of the teacher's samples
    SAMPLER_CHECK = auto()
    SMALL_DECODER = auto()
    STEP = auto()  # of training
    TARGET_CALIBRATION = auto()  # noise of the trajectories on which targets read ranges
    TIMESTEPS = auto()  # noise of the trajectories on which timesteps are chosen
    TIMING = auto()
    TRAJECTORIES = auto()
    TRAJECTORY_SCALES = auto()
    TRIAL = auto()
    WATCHED = auto()  # noise of the pictures that are shown while a net is trained


def generator(*key: int | str) -> torch.Generator:
    """A random generator that depends on `key` alone, (seed, a Draw, further numbers), however close two keys are."""
    digest = hashlib.sha256("/".join(map(str, key)).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)
