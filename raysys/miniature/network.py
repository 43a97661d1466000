"""A seismic network and the earthquakes it records: who sits where, and when which phase arrives with which motion."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd

from raysys.miniature import physics

EARTH_RADIUS_KM = 6371.0
TRACES_PER_EVENT = 6

SLOW_LAYER = 0.45
"""P speed of the soft uppermost layer over that of the rock below: it bends rays upright, so that P moves mostly Z."""


@dataclass(frozen=True, kw_only=True)
class Region:
    """Where the stations and earthquakes of a data set are, and how fast and how clean the rock is."""

    center: tuple[float, float]
    """Latitude and longitude, degrees."""
    radius_km: float
    """Stations and events lie within this distance of the centre."""
    reach_km: tuple[float, float]
    """Least and greatest epicentral distance of a recorded event."""
    depth_km: tuple[float, float]
    """Range of hypocentre depths."""
    magnitude: tuple[float, float]
    """Range of moment magnitudes; small ones are more frequent (Gutenberg-Richter, b = 1)."""
    num_stations: int = 18
    v0: float = 5.6
    """P speed at the surface, km/s."""
    gradient: float = 0.02
    """Growth of the P speed with depth, 1/s."""
    quality: float = 350.0
    """Quality factor of P; S has half of it."""
    distant: bool = False
    """Teleseismic: phases P, pP, S of a mantle instead of Pn, Pg, Sn, Sg of a crust."""

    @property
    def phases(self) -> tuple[str, ...]:
        """Names of the phases that seismograms hold; lower or upper case S in front of the rest means shear."""
        return ("P", "pP", "S") if self.distant else ("Pn", "Pg", "Sn", "Sg")


def stations(region: Region, network: str, rng: np.random.Generator) -> pd.DataFrame:
    """Returns one row a station: code, position, site, instrument and noise."""
    num = region.num_stations
    latitude, longitude = _scatter(region, num, rng)
    broadband = rng.random(num) < 0.6
    return pd.DataFrame(
        {
            "station_network_code": network,
            "station_code": [f"{network}{chr(65 + i % 26)}{i:02d}" for i in range(num)],
            "station_latitude_deg": latitude,
            "station_longitude_deg": longitude,
            "station_elevation_m": np.round(rng.uniform(0, 2500, num)),
            "trace_channel": np.where(broadband, "HH", "EH"),
            "sensor_hz": np.where(broadband, 0.05, 1.0),
            "resonance_hz": rng.uniform(1.5, 8.0, num),
            "amplification": rng.uniform(1.0, 4.0, num),
            "noise_slope": rng.uniform(0.5, 2.0, num),
            "microseism": np.exp(rng.uniform(np.log(0.2), np.log(4.0), num)),
            "noise_ms": 10 ** rng.normal(-7.0, 0.5, num),
            "gain_factor": 10 ** rng.normal(0.0, 0.3, num),
        }
    )


def events(
    region: Region, num: int, spans: tuple[tuple[str, str], ...], prefix: str, rng: np.random.Generator
) -> pd.DataFrame:
    """Returns one row an earthquake, in clusters; event i happens within `spans[i % len(spans)]`, rows in order of time."""
    latitude, longitude = _scatter(region, max(3, num // 5), rng)
    cluster = rng.integers(len(latitude), size=num)
    jitter = rng.normal(0, region.radius_km / 10 / 111.2, (2, num))
    low, high = region.magnitude
    edges = np.array([[np.datetime64(day, "ms").astype(np.int64) for day in span] for span in spans])
    start, end = edges[np.arange(num) % len(spans)].T
    table = pd.DataFrame(
        {
            "time_ms": (start + rng.random(num) * (end - start)).astype(np.int64),
            "source_latitude_deg": latitude[cluster] + jitter[0],
            "source_longitude_deg": longitude[cluster] + jitter[1],
            "source_depth_km": np.round(np.exp(rng.uniform(*np.log(region.depth_km), num)), 2),
            "source_magnitude": np.round(np.clip(low + rng.exponential(1 / math.log(10), num) * 1.3, low, high), 1),
            "strike": rng.uniform(0, 2 * np.pi, num),
            "dip": rng.uniform(0.3, np.pi / 2, num),
            "rake": rng.uniform(-np.pi, np.pi, num),
        }
    ).sort_values("time_ms", ignore_index=True)
    table["source_id"] = [f"{prefix}{i:06d}" for i in range(num)]
    return table


def records(
    region: Region, quakes: pd.DataFrame, sites: pd.DataFrame, num: int, rng: np.random.Generator
) -> pd.DataFrame:
    """Returns `num` rows, one a trace: an event joined to one of the nearer stations, with distance and azimuth.

    Azimuths are in rad: `azimuth` leaves the source, `arrival_azimuth` is the direction of travel at the station.
    """
    ends = [f"{end}_{axis}_deg" for end in ("source", "station") for axis in ("latitude", "longitude")]
    grid = np.broadcast_arrays(*quakes[ends[:2]].values.T[..., None], *sites[ends[2:]].values.T[:, None])
    distance, *_ = _great_circle(*grid)
    reached = (distance >= region.reach_km[0]) & (distance <= region.reach_km[1])
    # Stations sorted by log weight plus Gumbel noise are drawn without replacement with probability ~ weight.
    order = np.argsort(-(np.where(reached, -np.log(distance + 1), -50) + rng.gumbel(size=distance.shape)), axis=1)
    turn = np.argsort(order, axis=1) / rng.uniform(0.5, 2.0, (len(quakes), 1))
    event, site = np.divmod(np.sort(np.argsort(turn, axis=None)[:num]), len(sites))
    table = pd.concat(
        [frame.iloc[rows].reset_index(drop=True) for frame, rows in ((quakes, event), (sites, site))], axis=1
    ).assign(event=event, station=site)
    table["distance_km"], table["azimuth"], table["arrival_azimuth"] = _great_circle(*table[ends].values.T)
    return table


def travel(region: Region, table: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Returns travel times (B, A) in s, NaN where a phase does not exist, and motions (B, A, C) in m s."""
    distance, depth = table.distance_km.values, table.source_depth_km.values
    direct, sine, takeoff = physics.direct_ray(distance, depth, region.v0, region.gradient)
    sine = SLOW_LAYER * sine
    angles = table[["strike", "dip", "rake", "azimuth"]].values.T
    radiation = _fill_nodes(physics.double_couple(*angles, takeoff))
    speed = region.v0 + region.gradient * depth
    slant = np.hypot(distance, depth)
    p_level = physics.plateau(table.source_magnitude.values, slant, speed)
    s_level = physics.plateau(table.source_magnitude.values, slant, speed / physics.VP_VS)
    azimuth, none = table.arrival_azimuth.values, np.zeros(len(table))
    p_motion = physics.to_zne(p_level * radiation[:, 0], none, none, sine, azimuth)
    s_motion = physics.to_zne(none, s_level * radiation[:, 1], s_level * radiation[:, 2], sine, azimuth)
    if region.distant:
        echo = direct + 2 * depth * np.abs(np.cos(takeoff)) / speed
        times = [direct, echo, direct * physics.VP_VS]
        motions = [p_motion, -0.5 * p_motion, s_motion]
    else:
        refracted, shallow = physics.head_wave(distance, depth, v_crust=region.v0 + 10 * region.gradient)
        refracted = np.where(refracted < direct, refracted, np.nan)
        p_refracted = 0.4 * physics.to_zne(p_level * radiation[:, 0], none, none, SLOW_LAYER * shallow, azimuth)
        times = [refracted, direct, refracted * physics.VP_VS, direct * physics.VP_VS]
        motions = [p_refracted, p_motion, 0.3 * s_motion, s_motion]
    return np.stack(times, axis=1), np.stack(motions, axis=1)


def _fill_nodes(radiation: np.ndarray) -> np.ndarray:
    """Radiation whose nodes are filled to 0.2, as scattering near the source does; signs stay."""
    return np.where(radiation < 0, -1, 1) * np.maximum(np.abs(radiation), 0.2)


def _scatter(region: Region, num: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Latitudes and longitudes of `num` points, uniform within the region's circle."""
    radius = region.radius_km * np.sqrt(rng.random(num)) / (math.pi * EARTH_RADIUS_KM / 180)
    angle = rng.uniform(0, 2 * np.pi, num)
    latitude, longitude = region.center
    longitude = longitude + radius * np.sin(angle) / math.cos(math.radians(latitude))
    return np.clip(latitude + radius * np.cos(angle), -80, 80), (longitude + 180) % 360 - 180


def _great_circle(lat1, lon1, lat2, lon2) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Distance in km, azimuth at the first point and direction of travel at the second, rad (haversine; input in degrees)."""
    lat1, lon1, lat2, lon2 = (np.radians(x) for x in (lat1, lon1, lat2, lon2))
    half = np.sin((lat2 - lat1) / 2) ** 2 + np.cos(lat1) * np.cos(lat2) * np.sin((lon2 - lon1) / 2) ** 2
    bearing = _bearing(lat1, lat2, lon2 - lon1)
    return 2 * EARTH_RADIUS_KM * np.arcsin(np.sqrt(half)), bearing, _bearing(lat2, lat1, lon1 - lon2) + np.pi


def _bearing(lat1, lat2, dlon) -> np.ndarray:
    return np.arctan2(
        np.sin(dlon) * np.cos(lat2), np.cos(lat1) * np.sin(lat2) - np.sin(lat1) * np.cos(lat2) * np.cos(dlon)
    )
