"""What is masked before people share it, and what is not."""

import subprocess
import sys

import pytest

from raysys.credentials import mask, mask_words, refuse_credentials
from raysys.presets import PRESETS

KEEPS = (
    "s3://bucket/results/run",
    "abfs://container@account.dfs.core.windows.net/results",
    "python -m jobs.pretrain base --data.root https://host:8080/data --train.max-steps=8 --loss.num-negatives 25",
    "memory://x?endpoint_override=http://127.0.0.1:9000",
    "step 8: 5 tokens a second, signature unknown",
    "/home/me/secret-results/run@2",
)


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("s3://AKIA:abc/def+g@bucket/run", "s3://***@bucket/run"),
        ("to https://user:pass@host/x failed", "to https://***@host/x failed"),
        ("https://ghp_12345@github.com/x", "https://***@github.com/x"),
        ("https://host/x?a=1&token=abc&b=2", "https://host/x?a=1&token=***&b=2"),
        ("s3://b/x?access_key=A&secret_key=B&region=c", "s3://b/x?access_key=***&secret_key=***&region=c"),
        (
            "https://h/x?X-Amz-Credential=AK%2F1&X-Amz-Signature=ff",
            "https://h/x?X-Amz-Credential=***&X-Amz-Signature=***",
        ),
        ("https://a.blob.core.windows.net/c?sv=1&sig=xyz", "https://a.blob.core.windows.net/c?sv=1&sig=***"),
        ("run --hub-token=abc --password abc", "run --hub-token=*** --password ***"),
        ("env HF_TOKEN=abc AWS_SECRET_ACCESS_KEY=abc", "env HF_TOKEN=*** AWS_SECRET_ACCESS_KEY=***"),
        *((text, text) for text in KEEPS),
    ],
)
def test_credentials_are_masked_and_nothing_else(text, masked):
    assert mask(text) == masked
    assert mask(masked) == masked


def test_the_word_after_an_option_for_a_secret_is_masked():
    words = ["python", "--hub-token", "a b", "--password", "--storage", "s3://k:s@b", "token"]
    assert mask_words(words) == ["python", "--hub-token", "***", "--password", "--storage", "s3://***@b", "token"]


@pytest.mark.parametrize("key", ["storage", "data.root", "data.datasets"])
def test_a_url_with_credentials_is_refused_with_another_way_and_without_them(key):
    config, url = PRESETS["smoke"](), "s3://AKIA:hush@bucket/x"
    refuse_credentials(config)
    with pytest.raises(ValueError, match=rf"{key}=s3://\*\*\*@bucket/x holds .*AWS_ACCESS_KEY_ID.* role") as refused:
        refuse_credentials(config.override({key: [url] if key == "data.datasets" else url}))
    assert "hush" not in str(refused.value)


def test_no_job_begins_with_credentials_in_a_url():
    words = [sys.executable, "-m", "jobs.pretrain", "smoke", "--storage", "s3://AKIA:hush@bucket/x", "--dry-run"]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith("error: storage=s3://***@bucket/x holds credentials")
    assert "hush" not in done.stdout + done.stderr


def test_no_line_of_the_log_shows_credentials():
    program = "from raysys.console import configure_logging as c; c(); import logging; "
    program += "logging.getLogger('a').warning('at %s', 'https://u:hush@h'); logging.info('x')"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stderr == "WARNING a: at https://***@h\nINFO root: x\n"
