"""The model card of a trained network: what it is, what it was trained on, how well it does."""

import json
from collections.abc import Mapping
from typing import Any

import jax
from etils import epath
from ml_collections import ConfigDict

from mbh_jax.data import spacing
from mbh_jax.data.index import SPLIT_NAMES, SliceIndex
from mbh_jax.errors import UserError
from mbh_jax.keys import flatten
from mbh_jax.labels import CLASS_NAMES
from mbh_jax.log import log
from mbh_jax.reporting.tables import format_table
from mbh_jax.training.bundle import Facts
from mbh_jax.training.network import Network, TrainedNetwork

DISCLAIMER = "Research only: not a medical device."

NO_LICENCE = "not stated. Ask whoever gave you this file before you use it or share it."

LIMITS = (
    "Nothing here has been validated for clinical use.",
    "How well it does on other scans than those of the training data is not known: other scanners, "
    "other slice thickness, other patients (children, after surgery, with contrast medium), other "
    "kinds of haemorrhage.",
    "Where it marks nothing there may be blood, and where it marks blood there may be none.",
)

_DESCRIBED = ("model.", "data.image_size", "data.window", "data.neighbour")
"""Keys, or first parts of keys, that the card lists."""


def model_card(
    name: str, trained: TrainedNetwork, facts: Facts, workdir: epath.Path, licence: str | None
) -> str:
    """The model card of a run, Markdown.

    Args:
        name: of the run.
        trained: its network.
        facts: about the weights.
        workdir: the run's folder, whose evaluations of these weights are quoted.
        licence: of the weights, or None where nobody stated one.

    Raises:
        UserError: the summary of an evaluation is damaged.
    """
    config = trained.network.config
    limits = (LIMITS[0], _seen(trained.network), *LIMITS[1:])
    lines = [
        *(f"# {name}: segmentation of haemorrhage in head CT", "", f"**{DISCLAIMER}**", ""),
        *("## Use", "", "With mbh_jax installed:", ""),
        *("    python -m mbh_jax.predict --model=FILE.zip --input=scans/ --output=out/", ""),
        *_network(trained, facts),
        *_training_data(config, facts),
        *_results(workdir, facts),
        *("## Limits", "", *(f"- {limit}" for limit in limits), ""),
        *("## Licence", "", f"Licence of the weights: {licence or NO_LICENCE}"),
    ]
    return "\n".join(lines) + "\n"


def _seen(network: Network) -> str:
    """What the network sees of a scan when it predicts a slice."""
    number = network.config.data.neighbours
    if not number:
        return (
            "Slices are predicted one by one: the network does not see the slices above and below."
        )
    return f"Of a scan the network sees {network.num_slices} slices at once, {number} on each side."


def channels_in_words(network: Network) -> str:
    """What the channels of HU (B,H,W,S) are, which an exported network is given."""
    if network.num_slices == 1:
        return "one channel, the slice"
    distance_mm = network.config.data.neighbour_mm
    apart = f"{distance_mm:g} mm apart" if distance_mm else "one after the other as in the scan"
    return (
        f"{network.num_slices} channels, slices {apart}, from inferior to superior: the one in the "
        "middle is predicted; at the ends of a scan its last slice is repeated"
    )


def _network(trained: TrainedNetwork, facts: Facts) -> list[str]:
    parameters = jax.tree.leaves(trained.variables["params"])
    values = [
        (key, value) for key, value in flatten(trained.network.config) if key.startswith(_DESCRIBED)
    ]
    return [
        *("## Network", ""),
        f"{sum(leaf.size for leaf in parameters):,} parameters; the {facts.checkpoint} checkpoint, "
        f"after {facts.step} training steps; written by mbh_jax {facts.version}. Labels: "
        + ", ".join(f"{number} {name}" for number, name in enumerate(CLASS_NAMES))
        + ".",
        *("", "| key | value |", "|---|---|"),
        *(f"| `{key}` | `{value}` |" for key, value in sorted(values)),
        "",
    ]


def _training_data(config: ConfigDict, facts: Facts) -> list[str]:
    lines = ["## Training data", ""]
    if facts.dataset is None:
        return [*lines, "Not known: these weights were not trained by this program.", ""]
    if trained_on := spacing.from_json(facts.training_spacing):
        names = "Side of a pixel", "Distance of slices", "Field of view"
        rows = [
            f"{name} {one.median:.3g} mm ({one.least:.3g} to {one.greatest:.3g})"
            for name, one in zip(names, trained_on, strict=True)
        ]
        lines += [f"{'; '.join(rows)}: median and range over scans.", ""]
    slices = {"all": "All slices", "blood": "The slices with blood"}[config.data.slices]
    lines += [f"{slices} of the split `train` of the dataset with the fingerprint", ""]
    lines += [f"    {facts.dataset}", ""]
    index = _find_dataset(config, facts.dataset)
    if index is None:
        return [*lines, f"(not at {config.data.dir} when this card was written).", ""]
    method = ", ".join(f"{key} {value}" for key, value in sorted(index.split_method.items()))
    rows = []
    for split in SPLIT_NAMES:
        volumes = [volume for volume in index.volumes if volume.split == split]
        patients = {volume.patient_id for volume in volumes}
        counts = [index.num_examples(split, which) for which in ("all", "blood")]
        rows.append(" | ".join(map(str, (f"| {split}", len(patients), len(volumes), *counts))))
    return [
        *lines,
        *(f"How it was split: {method}.", ""),
        "| split | patients | volumes | slices with voxel labels | of these with blood |",
        "|---|---|---|---|---|",
        *(f"{row} |" for row in rows),
        "",
    ]


def _find_dataset(config: ConfigDict, fingerprint: str) -> SliceIndex | None:
    """The dataset that a run was trained on, where it still lies at `data.dir`."""
    try:
        index = SliceIndex.load(config.data.dir, with_records=False)
    except (UserError, OSError):
        return None
    return index if index.fingerprint == fingerprint else None


def _results(workdir: epath.Path, facts: Facts) -> list[str]:
    lines = ["## Results", ""]
    evaluations = workdir / "evaluation"
    folders = sorted(evaluations.iterdir()) if evaluations.is_dir() else []
    for path in [folder / "summary.json" for folder in folders]:
        summary = _read_summary(path) if path.is_file() else None
        if summary is None:
            continue
        made_of = summary["provenance"]["checkpoint"], summary["checkpoint_step"]
        if made_of != (facts.checkpoint, facts.step):
            log.info("%s: of other weights: not in the model card", path)
            continue
        dataset = summary["provenance"]["dataset"]
        same = "the same dataset" if dataset == facts.dataset else f"another dataset ({dataset})"
        title = f"Split `{summary['split']}` of {same}, {summary['slices']} slices"
        # Without the folder, which is of the machine that evaluated.
        provenance = {k: v for k, v in summary["provenance"].items() if k != "dataset_dir"}
        text = format_table({**summary, "provenance": provenance})
        table = [f"    {line}".rstrip() for line in text.splitlines()]
        lines += [f"{title}:", "", *table, ""]
    return lines if len(lines) > 2 else [*lines, "These weights have not been evaluated.", ""]


def _read_summary(path: epath.Path) -> Mapping[str, Any] | None:
    """The summary of an evaluation; None, with a warning, of one of another version.

    Raises:
        UserError: it is damaged.
    """
    try:
        summary = json.loads(path.read_text())
        format_table(summary)
        _ = summary["provenance"]["dataset"], summary["provenance"]["checkpoint"]
    except (KeyError, TypeError):
        log.warning(
            "warning: %s: written by another version, so not in the model card: evaluate again",
            path,
        )
        return None
    except ValueError:
        raise UserError(f"{path}: damaged: evaluate again") from None
    return summary
