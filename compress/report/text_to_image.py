"""Parts of the report of a whole pipeline: what pictures show of what was asked for."""

from compress.report.parts import Figure, Part


class Attribute(Part):
    """What a picture may show, of so many classes, and whether it is what was asked for. accuracy: of the classifier
    itself, on `count` real pictures that it was not trained on."""

    classes: int
    accuracy: float
    count: int
    metrics: dict[str, Figure]
