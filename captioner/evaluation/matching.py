"""The rule that predictions and references are about the same images."""

from collections.abc import Collection, Hashable, Mapping, Sequence

NAMED = 3


def check_same_images(
    predictions: Mapping[Hashable, str], references: Mapping[Hashable, Sequence[str]]
) -> None:
    """Refuses predictions and references that are not about the same images.

    Raises:
        ValueError: If there is no image, an image has no reference, an image has no prediction, or a
            prediction has no image. The message names a few and says how many.
    """
    if not references:
        raise ValueError("`references` must hold at least one image; received none.")
    if empty := [image for image, texts in references.items() if isinstance(texts, str) or not texts]:
        raise ValueError(
            f"`references` must map each image to a list of one or more captions; it does not for {some(empty)}."
        )
    missing = [image for image in references if image not in predictions]
    extra = [image for image in predictions if image not in references]
    if missing or extra:
        parts = []
        if missing:
            parts.append(f"no prediction for {some(missing)}")
        if extra:
            parts.append(f"no references for the predicted {some(extra)}")
        raise ValueError(
            f"`predictions` must have exactly the images of `references`, {len(references)} images: "
            f"{'; '.join(parts)}. Predict every image, or leave the others out of both."
        )


def some(images: Collection) -> str:
    """A few of `images` by name, and how many there are."""
    names = ", ".join(repr(str(image)) for image in list(images)[:NAMED])
    if len(images) <= NAMED:
        return names
    return f"{len(images)} images, among them {names}"
