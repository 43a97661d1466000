"""Drains this Ray node when the cloud announces that it takes the machine back: python spot_watch.py aws|azure|google

Ray then places nothing on the node any more, a run leaves it with a checkpoint, and Ray Train counts a preemption instead
of a failure. Ends after the notice; on machines that are not spot there never is one. Needs no package besides Ray; further
arguments go to `ray drain-node`.

Notices: https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/spot-instance-termination-notices.html,
https://learn.microsoft.com/en-us/azure/virtual-machines/linux/scheduled-events and
https://cloud.google.com/compute/docs/instances/spot
"""

import json
import os
import subprocess
import sys
import time
import urllib.request
from datetime import datetime
from email.utils import parsedate_to_datetime

METADATA = os.environ.get("METADATA_URL", "http://169.254.169.254")
PAUSE_S = 5
"""Between two looks, as AWS recommends, and between two attempts to drain."""
SHORT_S = 30
"""From notice to end at Google, and at Azure where the event has no time; else notices tell it."""


def main(cloud: str, *options: str) -> None:
    while (left_s := NOTICES[cloud]()) is None:
        time.sleep(PAUSE_S)
    end = time.time() + left_s
    print(f"{time.strftime('%FT%TZ', time.gmtime())} this machine is taken away in {left_s:.0f} s", flush=True)
    drain = [sys.executable, "-m", "ray.scripts.scripts", "drain-node", "--reason", "DRAIN_NODE_REASON_PREEMPTION"]
    while (left_s := end - time.time()) > 0:
        words = ["--reason-message", "spot notice", "--deadline-remaining-seconds", str(int(left_s)), *options]
        if subprocess.run([*drain, *words]).returncode == 0:
            return
        time.sleep(PAUSE_S)
    raise SystemExit("the node could not be drained in time")


def aws_notice() -> float | None:
    """Returns the seconds that are left, or None as long as there is no notice (the service answers 404)."""
    token = _ask("PUT", "/latest/api/token", {"X-aws-ec2-metadata-token-ttl-seconds": "60"})
    notice = token and _ask("GET", "/latest/meta-data/spot/instance-action", {"X-aws-ec2-metadata-token": token})
    return datetime.fromisoformat(json.loads(notice)["time"]).timestamp() - time.time() if notice else None


def azure_notice() -> float | None:
    """Returns the seconds that are left, or None as long as no event says that this machine of its group is evicted."""
    events = _ask("GET", "/metadata/scheduledevents?api-version=2020-07-01", {"Metadata": "true"})
    evictions = [event for event in json.loads(events or "{}").get("Events", []) if event["EventType"] == "Preempt"]
    if not evictions:
        return None
    name = _ask("GET", "/metadata/instance/compute/name?api-version=2021-02-01&format=text", {"Metadata": "true"})
    for event in evictions:
        if name in event["Resources"]:
            when = event.get("NotBefore")
            return parsedate_to_datetime(when).timestamp() - time.time() if when else SHORT_S
    return None


def google_notice() -> float | None:
    """Returns the seconds that are left, or None as long as the service answers FALSE."""
    notice = _ask("GET", "/computeMetadata/v1/instance/preempted", {"Metadata-Flavor": "Google"})
    return SHORT_S if notice == "TRUE" else None


NOTICES = {"aws": aws_notice, "azure": azure_notice, "google": google_notice}


def _ask(method: str, path: str, headers: dict[str, str]) -> str | None:
    request = urllib.request.Request(METADATA + path, method=method, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=2) as answer:
            return answer.read().decode()
    except OSError:  # no such path, or no answer: the next look asks again
        return None


if __name__ == "__main__":
    main(*sys.argv[1:])
