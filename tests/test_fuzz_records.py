"""Whatever is done to a record, it is read, or one ValueError names its file."""

import random

import hostile
import made_records as records
from hypothesis import given, settings
from hypothesis import strategies as st
from test_fuzz_load import refused

from lowrank.records import store


@settings(max_examples=200)
@given(seed=st.integers(0, 2**32))
def test_a_damaged_record_is_a_row_or_one_error(tmp_path_factory, seed):
    draw, folder = random.Random(seed), tmp_path_factory.getbasetemp() / "records"
    record = records.text_record("gptq", 1) if draw.random() < 0.5 else records.record()
    path = store.save(record, folder)
    if draw.random() < 0.7:
        path.write_text(hostile.text_of(hostile.mutated(record, draw)))
    else:
        path.write_bytes(hostile.damaged(path.read_bytes(), draw))
    reads = (store.load, store.load_layers, lambda folder: store.exists(path.stem, folder))
    for read in reads:
        try:
            read(folder)
        except ValueError as error:
            refused(error, path)
    path.unlink()
