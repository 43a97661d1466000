"""Drains this Ray node when the cloud announces that it takes the machine back: python spot_watch.py aws|google

Ray then places nothing on the node any more, a run leaves it with a checkpoint, and Ray Train counts a preemption instead
of a failure. Ends after the notice; on machines that are not spot there never is one. Needs no package besides Ray; further
arguments go to `ray drain-node`.

Notices: https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/spot-instance-termination-notices.html and
https://cloud.google.com/compute/docs/instances/spot
"""

import json
import os
import subprocess
import sys
import time
import urllib.request
from datetime import datetime

METADATA = os.environ.get("METADATA_URL", "http://169.254.169.254")
PAUSE_S = 5
"""Between two looks, as AWS recommends, and between two attempts to drain."""
GOOGLE_S = 30
"""From Google's notice to the end; AWS tells the time in its own."""


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


def google_notice() -> float | None:
    """Returns the seconds that are left, or None as long as the service answers FALSE."""
    notice = _ask("GET", "/computeMetadata/v1/instance/preempted", {"Metadata-Flavor": "Google"})
    return GOOGLE_S if notice == "TRUE" else None


NOTICES = {"aws": aws_notice, "google": google_notice}


def _ask(method: str, path: str, headers: dict[str, str]) -> str | None:
    request = urllib.request.Request(METADATA + path, method=method, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=2) as answer:
            return answer.read().decode()
    except OSError:  # no such path, or no answer: the next look asks again
        return None


if __name__ == "__main__":
    main(*sys.argv[1:])
