"""Synthetic three-component seismograms of local and distant earthquakes, in m/s.

A trace is a sum of phases. Each phase has a travel time (ray tracing in closed form), a double-couple amplitude, a direction
of motion and a pulse: Brune's source, constant-Q attenuation, a seismometer that cuts low and a recorder that cuts high
frequencies. The coda is the same pulse convolved with noise under a decaying envelope. All filters are causal, so that
no energy arrives before an onset.

Shape letters: B traces, A phases, C components (Z, N, E), T samples, F frequencies.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import fft

DENSITY = 2700.0
"""Rock density at the source, kg/m^3."""

STRESS_DROP = 3e6
"""Stress drop of every event, Pa."""

VP_VS = 1.75
"""Ratio of the P to the S speed (the crustal mean is 1.73 to 1.78)."""

ONSET_LEVEL = 0.03
"""A pulse starts where it first passes this fraction of its peak: what an analyst would call the onset."""


@dataclass(frozen=True, kw_only=True)
class Arrivals:
    """The phases of B traces: everything the waveform depends on besides noise."""

    onset_s: np.ndarray
    """(B, A) onset after the start of the trace, s; NaN where the phase does not exist."""
    motion: np.ndarray
    """(B, A, C) ground displacement at low frequency (the spectral plateau), m s."""
    is_s: np.ndarray
    """(A,) True for shear waves."""
    corner_hz: np.ndarray
    """(B,) Brune corner frequency of the P pulse; the S corner is VP_VS times lower."""
    t_star_s: np.ndarray
    """(B, 2) travel time over Q of P and S, s."""
    coda_s: np.ndarray
    """(B, 2) decay time of the amplitude of the P and S coda, s."""


@dataclass(frozen=True, kw_only=True)
class Stations:
    """Site and instrument of B traces."""

    sensor_hz: np.ndarray
    """(B,) corner of the seismometer's high-pass, Hz."""
    resonance_hz: np.ndarray
    """(B,) resonance of the soil layer, Hz; horizontals only."""
    amplification: np.ndarray
    """(B,) amplification at the resonance."""
    noise_slope: np.ndarray
    """(B,) exponent of the background: power ~ 1 / f^slope."""
    microseism: np.ndarray
    """(B,) height of the microseism peak near 0.2 Hz relative to the background at 1 Hz (amplitude)."""


def direct_ray(distance_km: np.ndarray, depth_km: np.ndarray, v0: float, gradient: float) -> tuple[np.ndarray, ...]:
    """Travel time (s), sine of the incidence angle and take-off angle (rad from down) of the direct ray.

    Speed grows linearly with depth, v = v0 + gradient * z, so that rays are circular arcs around a point at depth
    -v0/gradient (Aki & Richards 2002, section 9.4.1; Slotnick 1959).
    """
    distance = np.maximum(distance_km, 1e-3)
    source_speed = v0 + gradient * depth_km
    time = np.arccosh(1 + gradient**2 * (distance**2 + depth_km**2) / (2 * v0 * source_speed)) / gradient
    above = v0 / gradient
    center = (distance**2 + (depth_km + above) ** 2 - above**2) / (2 * distance)
    sine = above / np.hypot(center, above)
    down = np.arcsin(np.minimum(sine * source_speed / v0, 1.0))
    return time, sine, np.where(center < distance, down, np.pi - down)


def head_wave(
    distance_km: np.ndarray, depth_km: np.ndarray, *, v_crust: float, v_mantle: float = 8.0, moho_km: float = 32.0
):
    """Travel time (s; NaN inside the critical distance) and sine of the incidence angle of the wave along the Moho.

    Flat uniform crust over a uniform mantle (Shearer 2009, eq. 4.27 with a buried source).
    """
    legs_km = 2 * moho_km - np.minimum(depth_km, moho_km)
    time = distance_km / v_mantle + legs_km * np.sqrt(v_crust**-2 - v_mantle**-2)
    critical = legs_km * np.tan(np.arcsin(v_crust / v_mantle))
    return np.where(distance_km > critical, time, np.nan), np.full_like(distance_km, v_crust / v_mantle)


def double_couple(strike, dip, rake, azimuth, takeoff) -> np.ndarray:
    """Radiation (..., 3) of P, SV and SH of a shear crack; all angles in rad (Aki & Richards 2002, eq. 4.89 to 4.91)."""
    phi = azimuth - strike
    sin_d, cos_d, sin_2d, cos_2d = np.sin(dip), np.cos(dip), np.sin(2 * dip), np.cos(2 * dip)
    sin_r, cos_r = np.sin(rake), np.cos(rake)
    sin_i, cos_i, sin_2i, cos_2i = np.sin(takeoff), np.cos(takeoff), np.sin(2 * takeoff), np.cos(2 * takeoff)
    p = (
        cos_r * sin_d * sin_i**2 * np.sin(2 * phi)
        - cos_r * cos_d * sin_2i * np.cos(phi)
        + sin_r * sin_2d * (cos_i**2 - (sin_i * np.sin(phi)) ** 2)
        + sin_r * cos_2d * sin_2i * np.sin(phi)
    )
    sv = (
        sin_r * cos_2d * cos_2i * np.sin(phi)
        - cos_r * cos_d * cos_2i * np.cos(phi)
        + 0.5 * cos_r * sin_d * sin_2i * np.sin(2 * phi)
        - 0.5 * sin_r * sin_2d * sin_2i * (1 + np.sin(phi) ** 2)
    )
    sh = (
        cos_r * cos_d * cos_i * np.sin(phi)
        + cos_r * sin_d * sin_i * np.cos(2 * phi)
        + sin_r * cos_2d * cos_i * np.cos(phi)
        - 0.5 * sin_r * sin_2d * sin_i * np.sin(2 * phi)
    )
    return np.stack([p, sv, sh], axis=-1)


def to_zne(along: np.ndarray, sv: np.ndarray, sh: np.ndarray, sine: np.ndarray, azimuth: np.ndarray) -> np.ndarray:
    """Ground motion (..., C) on Z, N, E of motion along the ray, across it in its plane, and across the plane.

    `sine` is the sine of the incidence angle from the vertical, `azimuth` (rad) the direction of travel at the station.
    """
    cosine = np.sqrt(1 - sine**2)
    vertical, radial = along * cosine - sv * sine, along * sine + sv * cosine
    north = radial * np.cos(azimuth) - sh * np.sin(azimuth)
    east = radial * np.sin(azimuth) + sh * np.cos(azimuth)
    return np.stack([vertical, north, east], axis=-1)


def seismic_moment(magnitude: np.ndarray) -> np.ndarray:
    """Moment in N m of a moment magnitude (Hanks & Kanamori 1979)."""
    return 10 ** (1.5 * magnitude + 9.1)


def corner_frequency(magnitude: np.ndarray, p_speed: float) -> np.ndarray:
    """Corner of the P pulse in Hz; `p_speed` in km/s (Brune 1970 with the P constant of Madariaga 1976)."""
    shear = p_speed * 1e3 / VP_VS
    radius = (7 / 16 * seismic_moment(magnitude) / STRESS_DROP) ** (1 / 3)
    return 0.32 * shear / radius


def plateau(magnitude: np.ndarray, distance_km: np.ndarray, speed: float) -> np.ndarray:
    """Low-frequency level in m s of the displacement of a phase at the free surface; `speed` in km/s.

    M0 / (4 pi rho c^3 r), doubled by the free surface (Aki & Richards 2002, eq. 4.32).
    """
    return 2 * seismic_moment(magnitude) / (4 * np.pi * DENSITY * (speed * 1e3) ** 3 * distance_km * 1e3)


def instrument(freq: np.ndarray, sensor_hz: np.ndarray) -> np.ndarray:
    """Response (B, F) of a seismometer (two poles, high-pass) and a recorder (four poles at 0.3 of the band, low-pass)."""
    high = 1j * freq / sensor_hz[:, None]
    return (high / (1 + high)) ** 2 / (1 + 1j * freq / (0.3 * freq[-1])) ** 4


def site(freq: np.ndarray, stations: Stations) -> np.ndarray:
    """Response (B, C, F) of the soil: a damped resonance on the horizontals, 1 on Z."""
    ratio = freq / stations.resonance_hz[:, None]
    gain = stations.amplification[:, None]
    horizontal = (1 + 2j * ratio) / (1 - ratio**2 + 2j * ratio / gain)
    return np.stack([np.ones_like(horizontal), horizontal, horizontal], axis=1)


def pulse(
    freq: np.ndarray, corner_hz: np.ndarray, t_star_s: np.ndarray, sensor_hz: np.ndarray, rate_hz: float
) -> np.ndarray:
    """Spectrum (B, F) of a velocity pulse of plateau 1 m s whose onset is at time 0.

    Brune (1970) in its causal form; attenuation exp(-pi f t*) with the dispersion that keeps it causal (Aki & Richards
    2002, box 5.8), then moved so that the pulse passes ONSET_LEVEL of its peak at time 0.
    """
    source = 2j * np.pi * freq / (1 + 1j * freq / corner_hz[:, None]) ** 2
    lag = np.log(freq[-1] / np.maximum(freq, freq[1]))
    loss = np.exp(-t_star_s[:, None] * freq * (np.pi + 2j * lag))
    spectrum = source * loss * instrument(freq, sensor_hz)
    shape = np.abs(fft.irfft(spectrum, workers=1))
    first = np.argmax(shape >= ONSET_LEVEL * shape.max(axis=1, keepdims=True), axis=1)
    return spectrum * np.exp(2j * np.pi * freq * (first / rate_hz)[:, None])


def coda(
    onset_s: np.ndarray, decay_s: np.ndarray, num_samples: int, rate_hz: float, rng: np.random.Generator
) -> np.ndarray:
    """Noise (B, C, T) of unit energy a component under exp(-(t - onset) / decay), nothing before the onset (NaN: never)."""
    since = np.arange(num_samples) / rate_hz - np.nan_to_num(onset_s, nan=np.inf)[:, None]
    envelope = np.where(since > 0, np.exp(-np.maximum(since, 0) / decay_s[:, None]), 0)
    envelope *= np.sqrt(2 / (decay_s * rate_hz))[:, None]
    noise = rng.standard_normal((len(onset_s), 3, num_samples), dtype=np.float32)
    return noise * envelope[:, None].astype(np.float32)


def seismograms(
    arrivals: Arrivals, stations: Stations, *, rate_hz: float, num_samples: int, rng: np.random.Generator
) -> np.ndarray:
    """Noise-free ground velocity (B, C, T) in m/s, float32."""
    length = fft.next_fast_len(num_samples + int(25 * rate_hz), real=True)
    length += length % 2
    freq = fft.rfftfreq(length, 1 / rate_hz)
    total = np.zeros((len(arrivals.corner_hz), 3, len(freq)), np.complex64)
    for shear in (False, True):
        phases = np.flatnonzero(arrivals.is_s == shear)
        onset, motion = arrivals.onset_s[:, phases], np.nan_to_num(arrivals.motion[:, phases])
        onset = np.where(onset < num_samples / rate_hz, onset, np.nan)  # the transform would wrap later ones around
        shift = np.nan_to_num(np.exp(-2j * np.pi * freq * onset[..., None])).astype(np.complex64)
        train = np.einsum("baf,bac->bcf", shift, motion.astype(np.float32))
        first = np.min(np.where(np.isnan(onset), np.inf, onset), axis=1)
        scattered = coda(
            np.where(np.isinf(first), np.nan, first), arrivals.coda_s[:, int(shear)], num_samples, rate_hz, rng
        )
        strength = np.sqrt(np.sum(motion**2, axis=(1, 2)) / 3) * (1.2 if shear else 0.8)
        train += fft.rfft(scattered, length, axis=-1) * strength[:, None, None].astype(np.float32)
        corner = arrivals.corner_hz / (VP_VS if shear else 1.0)
        train *= pulse(freq, corner, arrivals.t_star_s[:, int(shear)], stations.sensor_hz, rate_hz)[:, None]
        total += train
    total *= site(freq, stations)
    return (fft.irfft(total, length, axis=-1)[..., :num_samples] * rate_hz).astype(np.float32)


def background(stations: Stations, *, rate_hz: float, num_samples: int, rng: np.random.Generator) -> np.ndarray:
    """Ground noise (B, C, T), float32, each component of rms 1: coloured background plus microseism.

    The microseism is a bell around 0.2 Hz on a logarithmic frequency axis (Peterson 1993 shows both).
    """
    length = fft.next_fast_len(num_samples, real=True)
    length += length % 2
    freq = fft.rfftfreq(length, 1 / rate_hz)
    safe = np.maximum(freq, freq[1])
    color = safe ** (-stations.noise_slope[:, None] / 2)
    color = color + stations.microseism[:, None] * np.exp(-0.5 * (np.log(safe / 0.2) / 0.35) ** 2)
    color = color[:, None] * np.abs(site(freq, stations) * instrument(freq, stations.sensor_hz)[:, None])
    color[..., 0] = 0
    rms = np.sqrt(2 * np.sum(color**2, axis=-1, keepdims=True)) / length
    white = fft.rfft(rng.standard_normal((len(color), 3, length), dtype=np.float32), axis=-1)
    scale = (color / (rms * np.sqrt(length))).astype(np.float32)
    return fft.irfft(white * scale, length, axis=-1)[..., :num_samples].astype(np.float32)
