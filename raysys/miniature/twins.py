"""The eight twins, one for each data set of the pretraining corpus.

Rates, lengths, labels, order of components, splits and identifiers are those of the real sets as far as they are documented.
Positions, magnitudes, noise and the share of defects are plausible, not measured. Traces of ETHZ and GEOFON are shorter
than the real ones, to keep a miniature small.
"""

from __future__ import annotations

import numpy as np

from raysys.miniature import quirks
from raysys.miniature.network import Region
from raysys.miniature.quirks import Twin

ETHZ = Twin(
    name="ETHZ",
    network="CH",
    region=Region(center=(46.8, 8.2), radius_km=120, reach_km=(3, 230), depth_km=(2, 18), magnitude=(1.0, 4.5)),
    spans=(("2013-01-01", "2019-01-07"),) * 3 + (("2019-01-09", "2019-09-03"), ("2019-09-05", "2020-12-31")),
    rates_hz={100.0: 0.4, 120.0: 0.15, 200.0: 0.25, 250.0: 0.15, 500.0: 0.05},
    length_s=(60, 90),
    lead_s=(10, 25),
    dtype=np.float64,
    gain=6e8,
    unit="counts",
    demean=True,
    snr_db=(12, 60),
    s_share=0.6,
    defects={"gap": 0.03, "spike": 0.03, "missing": 0.03, "second event": 0.02},
    label=quirks.crustal_onsets,
    publish=quirks.split_by_date("2019-01-08", "2019-09-04", polarity=True),
)

GEOFON = Twin(
    name="GEOFON",
    network="GE",
    region=Region(
        center=(10.0, 60.0),
        radius_km=8000,
        reach_km=(600, 9000),
        depth_km=(8, 300),
        magnitude=(4.8, 7.2),
        num_stations=20,
        v0=8.0,
        gradient=0.004,
        quality=900,
        distant=True,
    ),
    spans=(("2009-01-01", "2012-10-31"),) * 3 + (("2012-11-02", "2013-03-14"), ("2013-03-16", "2013-12-31")),
    rates_hz={20.0: 0.45, 40.0: 0.2, 50.0: 0.1, 80.0: 0.05, 100.0: 0.15, 200.0: 0.05},
    length_s=(90, 180),
    lead_s=(30, 60),
    dtype=np.float64,
    gain=6e8,
    unit="counts",
    demean=True,
    snr_db=(10, 45),
    s_share=0.15,
    defects={"gap": 0.04, "spike": 0.03, "missing": 0.05},
    label=quirks.distant_onsets,
    publish=quirks.split_by_date("2012-11-01", "2013-03-15"),
)

STEAD = Twin(
    name="STEAD",
    network="NC",
    region=Region(center=(38.8, -122.8), radius_km=70, reach_km=(2, 120), depth_km=(2, 20), magnitude=(0.5, 4.0)),
    spans=(("2000-01-01", "2018-08-01"),),
    rates_hz={100.0: 1.0},
    length_s=(60, 60),
    num_samples=6000,
    lead_s=(4, 9),
    gain=4e8,
    unit="counts",
    snr_db=(14, 60),
    noise_share=0.19,
    defects={"dead": 0.02, "spike": 0.02, "second event": 0.02},
    label=quirks.first_onsets("p", "s"),
    publish=quirks.publish_stead,
)

INSTANCE = Twin(
    name="InstanceCounts",
    network="IV",
    region=Region(
        center=(42.8, 13.1), radius_km=100, reach_km=(3, 200), depth_km=(3, 20), magnitude=(1.0, 5.0), num_stations=24
    ),
    spans=(("2005-01-01", "2020-01-31"),),
    rates_hz={100.0: 1.0},
    length_s=(120, 120),
    num_samples=12000,
    lead_s=(15, 25),
    component_order="ENZ",
    gain=1e9,
    unit="counts",
    offset=3000,
    integer=True,
    snr_db=(12, 60),
    s_share=0.7,
    defects={"clip": 0.03, "spike": 0.02, "gap": 0.02, "second event": 0.05},
    label=quirks.first_onsets("P", "S"),
    publish=quirks.publish_instance,
)

MLAAPDE = Twin(
    name="MLAAPDE",
    network="US",
    region=Region(
        center=(36.0, -97.0), radius_km=200, reach_km=(10, 400), depth_km=(3, 25), magnitude=(2.5, 5.0), quality=500
    ),
    spans=tuple((f"{month}-01", f"{month}-28") for month in ("2013-07", "2013-08", "2018-03", "2022-04")),
    rates_hz={40.0: 1.0},
    length_s=(120, 120),
    num_samples=4800,
    lead_s=(40, 70),
    gain=6e8,
    unit="counts",
    offset=500,
    snr_db=(10, 45),
    s_share=0.5,
    fractional=True,
    defects={"gap": 0.02, "spike": 0.02},
    label=quirks.crustal_onsets,
    publish=quirks.publish_mlaapde,
)

IQUIQUE = Twin(
    name="Iquique",
    network="CX",
    region=Region(
        center=(-20.2, -70.2),
        radius_km=110,
        reach_km=(5, 220),
        depth_km=(15, 31),
        magnitude=(1.8, 5.0),
        num_stations=14,
    ),
    spans=(("2014-04-01", "2014-05-31"),),
    rates_hz={100.0: 1.0},
    length_s=(120, 120),
    num_samples=12000,
    lead_s=(20, 40),
    gain=1.0,
    unit="m/s",
    snr_db=(12, 55),
    s_share=0.9,
    fractional=True,
    defects={"gap": 0.02, "second event": 0.04},
    label=quirks.first_onsets("P", "S"),
    publish=quirks.publish_iquique,
)

PNW = Twin(
    name="PNW",
    network="UW",
    region=Region(
        center=(47.0, -122.0), radius_km=110, reach_km=(3, 200), depth_km=(3, 28), magnitude=(0.8, 4.0), num_stations=24
    ),
    spans=(("2002-01-01", "2022-12-31"),),
    rates_hz={100.0: 1.0},
    length_s=(150, 150),
    num_samples=15001,
    lead_s=(50, 60),
    gain=1e9,
    unit="counts",
    offset=2000,
    integer=True,
    snr_db=(10, 50),
    defects={"nonfinite": 0.03, "missing": 0.1, "dead": 0.02, "clip": 0.02},
    label=quirks.first_onsets("P", "S"),
    publish=quirks.publish_pnw,
)

OBST2024 = Twin(
    name="OBST2024",
    network="7D",
    region=Region(
        center=(44.5, -125.5),
        radius_km=90,
        reach_km=(5, 150),
        depth_km=(5, 25),
        magnitude=(1.5, 4.5),
        num_stations=12,
        quality=200,
    ),
    spans=(("2011-10-01", "2019-08-31"),),
    rates_hz={100.0: 1.0},
    length_s=(60, 60),
    num_samples=6000,
    lead_s=(5, 25),
    gain=1e6,
    unit="um/s",
    snr_db=(8, 40),
    noise_share=0.41,
    s_share=0.9,
    fractional=True,
    defects={"dead": 0.03, "spike": 0.05},
    label=quirks.first_onsets("p", "s"),
    publish=quirks.publish_obst,
)

TWINS = {twin.name: twin for twin in (ETHZ, GEOFON, STEAD, INSTANCE, MLAAPDE, IQUIQUE, PNW, OBST2024)}
