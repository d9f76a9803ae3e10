"""What a conversion says about a source and about the dataset it made of it."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from data_prep.sources import CaseFacts, Source, pictures
from mbh_jax.labels import CLASS_NAMES, FOREGROUND


def notes(source: Source, facts: Sequence[CaseFacts]) -> Iterator[str]:
    """Lines that say what layout was found, and what is worth knowing of the cases."""
    yield f"{source.name}: layout {source.layout}, {len(facts)} volumes"
    yield from source.notes
    for fact in facts:
        for note in fact.notes:
            yield f"{fact.case.volume_id}: {note}"
    unlabelled = [fact.case.volume_id for fact in facts if fact.case.label is None]
    if unlabelled:
        yield (
            f"{len(unlabelled)} volumes have no voxel labels, such as {unlabelled[0]}: training "
            "and evaluation leave them out"
        )
    healthy = [
        fact.case.volume_id
        for fact in facts
        if fact.case.label is not None and not fact.pixels_per_class[:, list(FOREGROUND)].any()
    ]
    if healthy:
        yield f"{len(healthy)} volumes have labels without blood, such as {healthy[0]}"
    present = [
        label for label in FOREGROUND if any(f.pixels_per_class[:, label].any() for f in facts)
    ]
    if not present:
        yield "warning: no volume has blood: there is nothing to learn from this dataset"
    elif len(present) == 1:
        yield (
            f"warning: all blood is {CLASS_NAMES[present[0]]}: masks that mark any blood with one "
            "value must not be taken for one class"
        )
    images = [fact.case.image for fact in facts]
    if of_pictures := [image for image in images if isinstance(image, pictures.PngImage)]:
        yield "PNG has no spacing: pixels count as 1 mm, so that volumes in mL mean nothing here"
        if not of_pictures[0].flip_rows:
            yield (
                "PNG does not say what is above: the pictures are taken to show the face above; "
                "where it is below, as in those made from MBH-Seg25, give --flip_rows"
            )


def table(cases: Mapping[str, Sequence[CaseFacts]]) -> str:
    """Patients, volumes and slices of each split, and slices/volumes with each kind of blood."""
    blood_names = [CLASS_NAMES[label] for label in FOREGROUND]
    rows = [["split", "patients", "volumes", "slices", "with blood", *blood_names]]
    for split, facts in cases.items():
        if not facts:
            continue
        present = [fact.pixels_per_class[:, list(FOREGROUND)] > 0 for fact in facts]
        slices_with = np.sum([slices.sum(axis=0) for slices in present], axis=0)
        volumes_with = np.sum([slices.any(axis=0) for slices in present], axis=0)
        totals = (
            len({fact.case.patient_id for fact in facts}),
            len(facts),
            sum(fact.shape[0] for fact in facts),
            sum(int(slices.any(axis=1).sum()) for slices in present),
        )
        classes = [f"{s}/{v}" for s, v in zip(slices_with, volumes_with, strict=True)]
        rows.append([split, *map(str, totals), *classes])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True))
        for row in rows
    ]
    return "\n".join([*lines, "(under a class: slices/volumes that hold it)"])
