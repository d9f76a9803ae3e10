"""Checks a converted dataset, and says case by case what is wrong with it.

    python -m data_prep.verify data/bhsd

reads every record: checksums, decoding, label range, geometry, slice order, splits that share a
patient or a slice, and volumes that look odd. Ends with exit code 0 if the dataset is fit for
training (warnings may remain) and 1 if it is not.
"""

from mbh_jax.errors import end_at_first_signal

if __name__ == "__main__":
    end_at_first_signal()  # Before the imports, which take a while.

import argparse
import dataclasses
import hashlib
import itertools
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from etils import epath

from data_prep import checks, cross_checks, dataset
from data_prep.checks import Finding
from mbh_jax import files
from mbh_jax.data.index import SliceIndex
from mbh_jax.data.schema import LabelledVolume
from mbh_jax.errors import UserError, one_line_errors, use_default_signals
from mbh_jax.files import local_path

_BEFORE_PAYLOAD_BYTES, _AFTER_PAYLOAD_BYTES = 12, 4
"""Length and checksum before a record's payload, and checksum after it."""


def verify(index: SliceIndex) -> list[Finding]:
    """Everything that is wrong with a dataset, by case."""
    findings = [*checksum_findings(index), *place_findings(index)]
    if not dataset.opens_in_tfds(index):
        message = "features.json or dataset_info.json does not describe the records"
        findings.append(Finding("dataset", "tensorflow-datasets", message, fatal=True))
    hashes: dict[str, list[tuple[int, int]]] = defaultdict(list)
    for number in dataset.progress(range(len(index.volumes)), "volumes"):
        findings += _volume_findings(index, number, hashes)
    findings += cross_checks.split_findings(index.volumes, index.split_method["method"])
    findings += cross_checks.duplicate_findings(index.volumes, hashes)
    return sorted(findings)


def checksum_findings(index: SliceIndex) -> Iterator[Finding]:
    """Records whose TFRecord checksums (of length and payload) are wrong."""
    for number, path in enumerate(index.paths):
        if not _is_sound(path):
            for example in np.flatnonzero(index.file == number):
                if not _record_is_sound(index, int(example)):
                    message = f"slice {index.slice_index[example]}: its record fails its checksum"
                    volume_id = index.volumes[index.volume[example]].volume_id
                    yield Finding(volume_id, "checksum", message, fatal=True)


def place_findings(index: SliceIndex) -> Iterator[Finding]:
    """Volumes whose records lie in the files of another split than metadata.json says."""
    for number, info in enumerate(index.volumes):
        names = {index.files[file] for file in index.file[index.volume == number]}
        for name in sorted(names):
            if f"-{info.split}.tfrecord-" not in name:
                message = f"records in {name}, but metadata.json says {info.split}"
                yield Finding(info.volume_id, "split", message, fatal=True)


def _is_sound(path: str) -> bool:
    dataset.decoding_errors()  # Makes TensorFlow quiet before it is first imported.
    import tensorflow as tf

    try:
        for _ in tf.data.TFRecordDataset(path):
            pass
    except tf.errors.DataLossError:
        return False
    return True


def _record_is_sound(index: SliceIndex, example: int) -> bool:
    start = int(index.offset[example]) - _BEFORE_PAYLOAD_BYTES
    size = _BEFORE_PAYLOAD_BYTES + int(index.length[example]) + _AFTER_PAYLOAD_BYTES
    with epath.Path(index.paths[index.file[example]]).open("rb") as stream:
        stream.seek(start)
        record = stream.read(size)
    with tempfile.NamedTemporaryFile() as file:
        file.write(record)
        file.flush()
        return _is_sound(file.name)


def _volume_findings(
    index: SliceIndex, number: int, hashes: dict[str, list[tuple[int, int]]]
) -> Iterator[Finding]:
    """Checks the records of a volume, and adds its slices to `hashes`."""
    info = index.volumes[number]
    records = []
    examples = np.flatnonzero(index.volume == number)
    for example in examples:
        try:
            records.append(dataset.read_record(index, int(example)))
        except UserError:
            message = f"slice {index.slice_index[example]}: its record cannot be decoded"
            yield Finding(info.volume_id, "decoding", message, fatal=True)
    if len(records) < info.num_slices:
        return
    for note in info.notes:
        if note.startswith("spacing: "):
            yield Finding(info.volume_id, "spacing", note.removeprefix("spacing: "), fatal=False)
    mismatches = list(checks.record_findings(info, records))
    yield from mismatches
    for record in records:
        image = record["image"]
        if image.min() < image.max():
            pixels = hashlib.blake2b(image.tobytes(), digest_size=16).hexdigest()
            hashes[pixels].append((number, int(record["slice_index"])))
    if any(finding.check in ("shape", "slice order") for finding in mismatches):
        return
    labelled = LabelledVolume(
        **info.facts,
        hu=np.stack([record["image"] for record in records]),
        label=np.stack([record["label"] for record in records]),
    )
    if labelled.sha256 != info.sha256:
        message = "pixels are not those that were converted"
        yield Finding(info.volume_id, "checksum", message, fatal=True)
    yield from checks.volume_findings(labelled, index.split_method["method"] == "slice")


def report(findings: Iterable[Finding]) -> str:
    """Findings as text, grouped by case."""
    lines = []
    for case, of_case in itertools.groupby(findings, key=lambda finding: finding.case):
        lines.append(case)
        for finding in of_case:
            kind = "error" if finding.fatal else "warning"
            lines.append(f"  {kind}: {finding.check}: {finding.message}")
    return "\n".join(lines)


def _counted(findings: Iterable[Finding], name: str, *, fatal: bool) -> str:
    """How many there are, and of which checks, most frequent first."""
    counts = Counter(finding.check for finding in findings if finding.fatal is fatal)
    listed = ", ".join(f"{number} {check}" for check, number in counts.most_common())
    return f"{counts.total()} {name}" + (f" ({listed})" if listed else "")


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m data_prep.verify", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("dataset", help="such as data/bhsd")
    parser.add_argument("--report", type=local_path, help="write the findings as JSON there, too")
    options = parser.parse_args(arguments)
    with one_line_errors():
        use_default_signals()
        index = SliceIndex.load(options.dataset)
        findings = verify(index)
        num_errors = sum(finding.fatal for finding in findings)
        if findings:
            print(report(findings))
        if options.report:
            content = {
                "dataset": str(options.dataset),
                "fingerprint": index.fingerprint,
                "fit": num_errors == 0,
                "findings": [dataclasses.asdict(finding) for finding in findings],
            }
            files.write_json(options.report, content)
            print(f"written to {options.report}")
        print(
            f"{len(index.volumes)} volumes, {len(index)} slices: "
            f"{_counted(findings, 'errors', fatal=True)}, "
            f"{_counted(findings, 'warnings', fatal=False)}: "
            f"{'not fit' if num_errors else 'fit'} for training"
        )
    if num_errors:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
