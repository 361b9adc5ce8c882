"""As `vllm bench serve`, for the fake server: it keeps up its load until it is ended.

python fake_bench.py [--fail | --quit | --stubborn | --idle] [--pid-file FILE] ARGUMENTS
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import signal
import sys
import time
from urllib.parse import urlsplit

if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--base-url")
    parser.add_argument("--pid-file")
    for name in ("--max-concurrency", "--random-input-len", "--random-output-len", "--seed"):
        parser.add_argument(name, type=int)
    for flag in ("--fail", "--quit", "--stubborn", "--idle"):
        parser.add_argument(flag, action="store_true")
    given, _ = parser.parse_known_args()
    if given.fail:
        print("starting", file=sys.stderr)
        sys.exit("OSError: no tokenizer there")
    if given.quit:
        sys.exit(0)
    if given.stubborn:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if given.pid_file:
        with open(given.pid_file, "a") as file:
            print(os.getpid(), file=file)
    if given.idle:
        time.sleep(600)
    size = {
        "concurrency": given.max_concurrency,
        "prompt": given.random_input_len,
        "output": given.random_output_len,
        "seed": given.seed,
    }
    client = http.client.HTTPConnection(urlsplit(given.base_url).netloc)
    client.request("POST", "/load", json.dumps(size))
    client.getresponse()
