"""The picture of seismograms and codes: from arrays, and from a real checkpoint on real windows."""

import json

import numpy as np
import pytest
import torch
from matplotlib.colors import rgb_to_hsv
from safetensors.torch import save_file

from model.pretrain import PretrainModel
from raysys.data.fixed_windows import FixedWindows
from raysys.miniature import write_miniatures
from raysys.presets import smoke
from raysys.report.collect import read_folder
from raysys.report.seismograms import choose, code_colors, coded_windows, seismogram_figure
from raysys.report.write import write_report
from raysys.train.checkpoint import FILES
from raysys.train.metrics import RunLog


@pytest.fixture(scope="module")
def run_with_data(tmp_path_factory):
    """A run folder of an untrained smoke model with TensorBoard events, and data that it can read."""
    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp("seismograms")
    write_miniatures(root / "data", names=("Iquique", "ETHZ"), traces=40)
    config = smoke().override({"data.root": str(root / "data"), "data.cache": str(root / "cache")})
    run = root / "run"
    checkpoint = run / "step000000008"
    checkpoint.mkdir(parents=True)
    model = PretrainModel(config.model, config.mask, config.loss)
    save_file(model.state_dict(), checkpoint / "model.safetensors")
    for name in FILES[1:]:
        (checkpoint / name).write_text("")
    for folder in (run, checkpoint):
        (folder / "config.json").write_text(json.dumps(config.to_dict()))
    (run / "record.json").write_text(json.dumps({"data_fingerprint": "of other data"}))
    log = RunLog(run, total_steps=8)
    log.write({"val/contrastive": 2.0, "codebook/hard_perplexity": 16.0}, step=8)
    log.histogram("codebook/usage", torch.arange(32.0).reshape(2, 16), step=8)
    log.close()
    return run


def test_codes_are_those_of_the_newest_checkpoint(run_with_data):
    windows = coded_windows(read_folder(run_with_data), count=3)
    config = smoke()
    assert windows.codes.shape == (3, config.model.num_frames, 2)
    assert windows.waveform.shape == (3, 3, config.model.window_samples)
    assert set(windows.names) == {"Iquique", "ETHZ"}, "every data set is shown before any comes twice"
    assert np.isfinite(windows.p_sample[0])
    assert len(np.unique(windows.codes)) > 1


def test_the_page_shows_seismograms_and_code_usage(run_with_data):
    page = write_report([run_with_data]).read_text()
    assert "Validation windows with catalogued P and S picks" in page
    assert "The data has changed since the run" in page
    assert "How the frames of the validation set share the codes" in page
    np.testing.assert_array_equal(read_folder(run_with_data).usage[8], np.arange(32.0))


def test_weights_of_another_model_are_a_note(run_with_data):
    config = json.loads((run_with_data / "step000000008" / "config.json").read_text())
    try:
        changed = json.loads(json.dumps(config))
        changed["model"]["target_dim"] = 32
        (run_with_data / "step000000008" / "config.json").write_text(json.dumps(changed))
        page = write_report([run_with_data]).read_text()
    finally:
        (run_with_data / "step000000008" / "config.json").write_text(json.dumps(config))
    assert "Left out, since checkpoint and data could not be read" in page
    assert "head.weight" in page


def test_choose_takes_windows_with_picks_from_all_data_sets():
    nan = np.nan
    p = np.array([6.0, 10.0, 5.0, nan, 7.0])
    s = np.array([nan, 20.0, nan, nan, 9.0])
    dataset = np.array([0, 0, 1, 1, 0])
    windows = FixedWindows(np.zeros((5, 3, 8), np.float32), np.full(5, 8), p, s, np.isnan(p), dataset, ("a", "b"))
    assert choose(windows, 2).tolist() == [1, 2]
    assert choose(windows, 3).tolist() == [1, 2, 4]


def test_padding_dead_channels_and_missing_picks_can_be_drawn(run_with_data):
    windows = coded_windows(read_folder(run_with_data), count=3)
    windows.waveform[0] = 0.0
    windows.num_valid[1] = 0
    windows.p_sample[:] = np.nan
    figure = seismogram_figure(windows, num_codes=16)
    strips = [ax for ax in figure.axes if ax.images]
    assert len(strips) == 3
    first = np.asarray(strips[0].images[0].get_array())
    np.testing.assert_allclose(first, code_colors(16)[windows.codes[0].T])


def test_codes_have_colours_of_their_own():
    colors = code_colors(320)
    assert len(np.unique(colors.round(6), axis=0)) == 320
    hues = rgb_to_hsv(colors)[:, 0]
    apart = np.abs(np.diff(hues))
    assert np.minimum(apart, 1 - apart).min() > 0.3, "neighbours are told apart"
    assert colors.min() >= 0
    assert colors.max() <= 1
