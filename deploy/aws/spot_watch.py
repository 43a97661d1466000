"""Drains this Ray node when AWS announces, two minutes ahead, that it takes the spot instance back.

Ray then places nothing on the node any more, and Ray Train counts a preemption instead of a failure. Ends after the
notice; on other instances there never is one. Needs no package besides Ray's command line.

Notice: https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/spot-instance-termination-notices.html
"""

import os
import subprocess
import time
import urllib.request

METADATA = os.environ.get("AWS_EC2_METADATA_SERVICE_ENDPOINT", "http://169.254.169.254").rstrip("/")
PAUSE_S = 5
"""Between two looks, as AWS recommends."""
DEADLINE_S = 110


def main() -> None:
    while (notice := spot_notice()) is None:
        time.sleep(PAUSE_S)
    print(f"{time.strftime('%FT%TZ', time.gmtime())} spot notice: {notice}", flush=True)
    drain = ["ray", "drain-node", "--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "spot notice"]
    subprocess.run([*drain, "--deadline-remaining-seconds", str(DEADLINE_S)], check=True)


def spot_notice() -> str | None:
    """Returns the notice, JSON with action and time, or None as long as there is none."""
    try:
        token = _ask("PUT", "/latest/api/token", {"X-aws-ec2-metadata-token-ttl-seconds": "60"})
        return _ask("GET", "/latest/meta-data/spot/instance-action", {"X-aws-ec2-metadata-token": token})
    except OSError:  # 404 while there is no notice; a service that does not answer is asked again
        return None


def _ask(method: str, path: str, headers: dict[str, str]) -> str:
    request = urllib.request.Request(METADATA + path, method=method, headers=headers)
    with urllib.request.urlopen(request, timeout=2) as answer:
        return answer.read().decode()


if __name__ == "__main__":
    main()
