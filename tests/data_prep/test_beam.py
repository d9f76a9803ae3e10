"""The same builder under Apache Beam's local runner; skipped where the extra is not installed."""

import pytest

from data_prep import build_tfrecords, builder

pytest.importorskip("apache_beam", reason="the extra mbh_jax[beam] is not installed")


@pytest.mark.parametrize("split", ["patient", "slice"])
def test_beam_writes_the_same_bytes(tiny_source_dir, tmp_path, monkeypatch, split):
    monkeypatch.setattr(builder, "SHARD_SLICES", 10)
    files = []
    for name, options in (("here", None), ("beam", "runner=DirectRunner")):
        output = tmp_path / name
        build_tfrecords.build(tiny_source_dir, output, split=split, beam_pipeline_options=options)
        files.append(
            {
                str(path.relative_to(output)): path.read_bytes()
                for path in sorted(output.rglob("*"))
                if path.is_file()
            }
        )
    assert files[0] == files[1]
    assert sum("tfrecord" in name for name in files[0]) > 3
