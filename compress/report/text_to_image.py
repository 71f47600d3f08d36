"""Parts of the report of a whole pipeline: what pictures show of what was asked for, and what each part costs them."""

from typing import Literal

from compress.report.parts import Figure, Part


class Attribute(Part):
    """What a picture may show, of so many classes, and whether it is what was asked for. accuracy: of the classifier
    itself, on `count` real pictures that it was not trained on."""

    classes: int
    accuracy: float
    count: int
    metrics: dict[str, Figure]


class PipelinePart(Part):
    """What a part of the pipeline costs one picture, in bytes and milliseconds: of the teacher in PyTorch, fp32, and of
    the student as it ships. psnr: of pictures in which this part alone is the student's, in dB to the teacher's; None:
    the student does not map noise to images as the teacher does.
    """

    name: Literal["text encoder", "denoiser", "decoder"]
    teacher_bytes: int
    student_bytes: int
    teacher_ms: float
    student_ms: float
    psnr: Figure | None
