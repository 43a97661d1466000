"""Times as catalogues write them."""

import numpy as np
import pyarrow as pa
import pytest

from raysys.data.timestamps import epoch_seconds

UTC = np.datetime64("2020-01-01T21:00:03").astype(float)


@pytest.mark.parametrize(
    ("text", "after"),
    [
        ("2020-01-01T21:00:03", 0),
        ("2020-01-01 21:00:03.08", 0.08),
        ("2020/01/01T21:00:03+00:00", 0),
        (" 2020-01-01T21:00:03.530000Z ", 0.53),
        ("2020-01-01T21:00:03,25 UTC", 0.25),
        ("2020-01-02T06:00:03.5+09:00", 0.5),
        ("2020-01-01T17:30:03-0330", 0),
        ("2020-01-01T18:00:03-03", 0),
        ("20200101T210003", 0),
        ("20200101210003.125", 0.125),
        ("20200101T210003Z", 0),
        ("2020-01-01T21:00", -3),
    ],
)
def test_a_time_is_read_in_every_common_form(text, after):
    np.testing.assert_allclose(epoch_seconds(pa.chunked_array([pa.array([text])])), UTC + after, atol=1e-6)


@pytest.mark.parametrize(
    "text", ["", "?", "2020", "2020-01-01", "2020-13-01T00:00:00", "2021-02-29T00:00:00", "1577836800.5"]
)
def test_what_is_no_moment_is_not_read(text):
    assert np.isnan(epoch_seconds(pa.array([text, "2020-01-01T21:00:03"]))).tolist() == [True, False]


def test_a_column_without_a_time_is_read():
    assert np.isnan(epoch_seconds(pa.array(["", ""]))).all()
    assert len(epoch_seconds(pa.array([], pa.string()))) == 0
